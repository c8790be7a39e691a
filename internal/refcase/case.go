package refcase

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// maxJSON bounds the text files of a case.
const maxJSON = 64 << 20

// Case is one reference case.
type Case struct {
	Dir  string
	Name string
	// Architecture is the reference class, such as "PerceiverForMaskedLM"; "" for cases that
	// say their kind instead.
	Architecture string
	// Kind is such as "resampler/openflamingo"; "" for cases that say their architecture.
	// "checkpoint" means that the expected tensors are those of the weight file.
	Kind string
	// FullSize says that weights and inputs come from formulas, and that stages are known by
	// statistics and probes.
	FullSize bool
	Config   []byte // config.json, nil when there is none
	Meta     []byte // case.json or expected.json
	Prefix   string // "param_prefix": where the part sits in the weight file, "" or "a.b."
	// Note is what a run had to supply that the case's files lack, "" for nothing.
	Note string

	inputs map[string]weights.Raw
	stages map[string]stage
	specs  []weights.Spec // full size: every tensor of the checkpoint
	open   []*weights.Checkpoint
}

// description is what case.json and expected.json have in common.
type description struct {
	Name         string          `json:"name"`
	Model        string          `json:"model"`
	Architecture string          `json:"architecture"`
	Kind         string          `json:"kind"`
	Prefix       string          `json:"param_prefix"`
	Inputs       json.RawMessage `json:"inputs"`
	InputNote    string          `json:"input_note"`
	Expected     json.RawMessage `json:"expected"`
}

// Load reads the case in dir. Weights are opened when asked for.
func Load(dir string) (*Case, error) {
	c := &Case{Dir: dir, Name: filepath.Base(filepath.Clean(dir)), inputs: map[string]weights.Raw{}, stages: map[string]stage{}}
	if err := c.load(); err != nil {
		c.Close()
		return nil, fmt.Errorf("refcase: %s: %w", c.Name, err)
	}
	return c, nil
}

func (c *Case) load() error {
	var err error
	if c.Config, err = c.read("config.json"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.Meta, err = c.read("case.json")
	if errors.Is(err, fs.ErrNotExist) {
		c.Meta, err = c.read("expected.json")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("neither case.json nor expected.json: not a reference case")
	}
	if err != nil {
		return err
	}
	var d description
	if err := json.Unmarshal(c.Meta, &d); err != nil {
		return fmt.Errorf("description: %w", err)
	}
	c.Architecture, c.Kind, c.Prefix = d.Architecture, d.Kind, d.Prefix
	if d.Name != "" {
		c.Name = d.Name
	} else if d.Model != "" {
		c.Name = d.Model
	}
	if err := c.loadNames(); err != nil {
		return err
	}
	if c.has("expected.safetensors") {
		err = c.loadStages()
	} else {
		err = c.loadSummaries(d)
	}
	if err != nil {
		return err
	}
	if c.Architecture == "" && c.Kind == "" {
		c.Kind = "checkpoint"
	}
	return c.loadInputs(d)
}

// read returns a file of the case.
func (c *Case) read(name string) ([]byte, error) {
	path := c.Path(name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxJSON {
		return nil, fmt.Errorf("%s: %d bytes, at most %d", name, info.Size(), maxJSON)
	}
	return os.ReadFile(path)
}

// Path is the path of a file of the case.
func (c *Case) Path(name string) string { return filepath.Join(c.Dir, name) }

func (c *Case) has(name string) bool {
	_, err := os.Stat(c.Path(name))
	return err == nil
}

// Has reports whether the case has a file of that name.
func (c *Case) Has(name string) bool { return c.has(name) }

// Source opens the weights: the case's own model.safetensors, index or pytorch_model.bin, or
// the formula at full size. Close closes them.
func (c *Case) Source() (weights.Source, error) {
	if c.FullSize {
		return weights.Seeded(c.specs...), nil
	}
	return c.opened(c.Dir)
}

// File opens another weight file of the case, such as "lang_model.safetensors".
func (c *Case) File(name string) (weights.Source, error) { return c.opened(c.Path(name)) }

func (c *Case) opened(path string) (weights.Source, error) {
	src, err := weights.Open(path)
	if err != nil {
		return nil, fmt.Errorf("refcase: %s: %w", c.Name, err)
	}
	c.open = append(c.open, src)
	return src, nil
}

// Close closes every weight file that the case opened.
func (c *Case) Close() error {
	var err error
	for _, src := range c.open {
		err = errors.Join(err, src.Close())
	}
	c.open = nil
	return err
}

// Inputs names the inputs, sorted. An argument inputs["image"] is called "inputs.image";
// one that was null is absent; a plain number is an I64 tensor of shape [].
func (c *Case) Inputs() []string { return slices.Sorted(maps.Keys(c.inputs)) }

// Input returns an input as stored.
func (c *Case) Input(name string) (weights.Raw, bool) {
	r, ok := c.inputs[name]
	return r, ok
}

// Tensor returns an input as float32.
func (c *Case) Tensor(name string) (tensor.Tensor, bool) {
	r, ok := c.inputs[name]
	if !ok {
		return tensor.Tensor{}, false
	}
	return r.Tensor(), true
}

// Ints returns an integer or boolean input, row-major, and its shape.
func (c *Case) Ints(name string) (values, shape []int, ok bool) {
	r, ok := c.inputs[name]
	if !ok {
		return nil, nil, false
	}
	values, err := r.Ints()
	if err != nil { // a float mask
		t := r.Tensor()
		values = make([]int, len(t.Data))
		for i, x := range t.Data {
			values[i] = int(x)
		}
	}
	return values, r.Shape, true
}

// Stages names the expected stages, in natural order ("layers.2" before "layers.10").
func (c *Case) Stages() []string {
	return slices.SortedFunc(maps.Keys(c.stages), natural)
}

// Shape is the shape of an expected stage, nil when there is none of that name.
func (c *Case) Shape(name string) []int {
	if s, ok := c.stages[name]; ok {
		return s.shape
	}
	return nil
}

// natural orders names with their numbers by value.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if d := strings.Compare(x, y); d != 0 {
				return d
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
