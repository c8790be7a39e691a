package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/weights"
)

// Sentinels a caller may choose by.
var (
	// ErrNoTask: the model has no head that answers this request.
	ErrNoTask = errors.New("the model has no such task")
	// ErrNotFinite: a result held NaN or an infinity and was withheld.
	ErrNotFinite = perceiver.ErrNotFinite
	// ErrInput: the request does not fit the model.
	ErrInput = errors.New("input does not fit the model")
)

// Recipe builds the model of an architecture from its directory and its place in the
// weights. What the weights lack, it reports through the Scope; what the configuration gets
// wrong, as an error naming the key.
type Recipe func(ctx context.Context, d *Dir, s weights.Scope, opt Options) (Model, error)

var recipes = map[string]Recipe{}

// Register adds the recipe of an architecture, named as in config.json's "architectures".
// It is called from init and panics on a repeat.
func Register(arch string, r Recipe) {
	if _, taken := recipes[arch]; taken {
		panic("pipeline: recipe registered twice: " + arch)
	}
	recipes[arch] = r
}

// Architectures lists the registered architectures, sorted.
func Architectures() []string { return slices.Sorted(maps.Keys(recipes)) }

// Open loads a model directory.
func Open(ctx context.Context, path string, opt Options) (Model, error) {
	d, err := ReadDir(path)
	if err != nil {
		return nil, err
	}
	return OpenDir(ctx, d, opt)
}

// OpenDir loads the model that a directory's description names.
func OpenDir(ctx context.Context, d *Dir, opt Options) (Model, error) {
	if err := d.known(); err != nil {
		return nil, err
	}
	src, done, err := d.source(opt)
	if err != nil {
		return nil, err
	}
	defer done()
	if opt.Random {
		return bind(ctx, d, src, opt)
	}
	// The digest reads the files while the weights are packed.
	var digest string
	var digestErr error
	var wg sync.WaitGroup
	wg.Go(func() { digest, digestErr = d.digest() })
	m, err := bind(ctx, d, src, opt)
	wg.Wait()
	if err != nil || digestErr != nil {
		return nil, errors.Join(err, digestErr)
	}
	if b, ok := m.(interface{ identify(digest string) }); ok {
		b.identify(digest)
	}
	return m, nil
}

// known refuses an architecture without a recipe.
func (d *Dir) known() error {
	if !Known(d.Arch) {
		return fmt.Errorf("pipeline: %s: unknown architecture %q (known: %s)", d.name(), d.Arch, strings.Join(Architectures(), ", "))
	}
	return nil
}

// bind builds a directory's model from a source of weights.
func bind(ctx context.Context, d *Dir, src weights.Source, opt Options) (Model, error) {
	if err := d.known(); err != nil {
		return nil, err
	}
	dt, err := opt.arithmetic(d)
	if err != nil {
		return nil, err
	}
	if err := takeRoom(ctx, weightBytes(countParameters(src), dt)); err != nil {
		return nil, err
	}
	m, err := weights.Bind(src, func(s weights.Scope) (Model, error) {
		return recipes[d.Arch](ctx, d, s, opt)
	}, weights.Options{DType: dt})
	if err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.Path, err)
	}
	if b, ok := m.(interface {
		loaded(d *Dir, src weights.Source, dt kernel.DType)
	}); ok {
		b.loaded(d, src, dt)
	}
	return m, nil
}

// arithmetic is the element type that a directory is loaded in.
func (o Options) arithmetic(d *Dir) (kernel.DType, error) {
	name, from := o.DType, "options"
	if name == "" && d.Native {
		var c struct {
			DType string `json:"dtype"`
		}
		if err := json.Unmarshal(d.Config, &c); err != nil {
			return 0, fmt.Errorf("pipeline: %s: %w", d.name(), err)
		}
		name, from = c.DType, d.name()
	}
	if name == "" {
		return kernel.F32, nil
	}
	dt, err := kernel.ParseDType(name)
	if err != nil {
		return 0, fmt.Errorf("pipeline: %s: dtype: %w", from, err)
	}
	return dt, nil
}

// Known reports whether an architecture has a recipe.
func Known(arch string) bool {
	_, ok := recipes[arch]
	return ok
}
