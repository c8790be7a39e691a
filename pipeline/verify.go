package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Verdict is the outcome of one reference case.
type Verdict struct {
	Name      string  `json:"name"`
	Pass      bool    `json:"pass"`
	Stage     string  `json:"worst_stage"`  // the stage that comes nearest its tolerance, or first fails
	MaxAbs    float64 `json:"max_abs_diff"` // of that stage
	Tolerance float64 `json:"tolerance"`
	Seconds   float64 `json:"seconds"` // load, forward and comparison
	Stages    int     `json:"stages"`
	Note      string  `json:"note,omitempty"` // what the run supplied that the case's files lack
	Err       error   `json:"-"`              // why it failed
}

// Verify loads the reference case in dir as serving would load the model, runs its inputs and
// compares every expected stage. A stage that is not produced fails the case.
func Verify(ctx context.Context, dir string, opt Options) Verdict {
	start := time.Now()
	v := Verdict{Name: dir}
	if verifyWhole(ctx, dir, &v) {
		v.Seconds = time.Since(start).Seconds()
		return v
	}
	c, err := refcase.Load(dir)
	if err != nil {
		v.Err = err
		return v
	}
	defer c.Close()
	v.Name = c.Name
	k := comparison{c: c, v: &v, seen: map[string]bool{}}
	err = runCase(ctx, c, opt, k.stage)
	k.finish(err)
	v.Note = c.Note
	v.Seconds = time.Since(start).Seconds()
	return v
}

// runCase runs a case by its kind or its architecture.
func runCase(ctx context.Context, c *refcase.Case, opt Options, emit func(string, tensor.Tensor)) error {
	if slices.Contains(conditioned.Kinds, c.Kind) {
		return conditioned.RunCase(ctx, &tensor.Arena{Trace: emit}, c)
	}
	if c.Kind == "checkpoint" {
		return runCheckpoint(c, emit)
	}
	m, err := openCase(ctx, c, opt)
	if err != nil {
		return err
	}
	r, ok := m.(CaseRunner)
	if !ok {
		return fmt.Errorf("pipeline: %s has no reference cases", m.Info().Architecture)
	}
	a := &tensor.Arena{Trace: emit}
	return r.RunCase(ctx, a, caseInput(c))
}

// openCase loads the model of a case with the case's weights.
func openCase(ctx context.Context, c *refcase.Case, opt Options) (Model, error) {
	if c.Config == nil && !c.Has(nativeFile) {
		return nil, fmt.Errorf("pipeline: case %s: kind %q is not known and there is neither %s nor %s", c.Name, c.Kind, configFile, nativeFile)
	}
	src, err := c.Source()
	if err != nil {
		return nil, err
	}
	d, err := readDirFS(c.Dir, dirFS(c.Dir))
	if err != nil {
		return nil, err
	}
	return bind(ctx, d, src, opt)
}

// runCheckpoint emits the tensors of the case's weight file.
func runCheckpoint(c *refcase.Case, emit func(string, tensor.Tensor)) error {
	src, err := c.Source()
	if err != nil {
		return err
	}
	for name := range src.Names() {
		raw, err := src.Load(name)
		if err != nil {
			return err
		}
		emit(name, raw.Tensor())
	}
	return nil
}

// caseInput gives a network the inputs of a case under the names it knows: as the case spells
// them, and inputs["image"] for inputs.image.
func caseInput(c *refcase.Case) perceiver.CaseInput {
	in := perceiver.CaseInput{Floats: map[string]tensor.Tensor{}, Ints: map[string]perceiver.Ints{}, Case: c.Meta}
	for _, name := range c.Inputs() {
		raw, _ := c.Input(name)
		spelt := []string{name}
		if head, tail, ok := strings.Cut(name, "."); ok {
			spelt = append(spelt, fmt.Sprintf("%s[%q]", head, tail))
		}
		for _, s := range spelt {
			if raw.DType.Float() {
				in.Floats[s] = raw.Tensor()
				continue
			}
			in.Ints[s] = intsOf(raw)
		}
	}
	return in
}

func intsOf(raw weights.Raw) perceiver.Ints {
	out := perceiver.Ints{Shape: raw.Shape}
	if ids, err := raw.Ints(); err == nil {
		for _, id := range ids {
			out.Data = append(out.Data, int64(id))
		}
	}
	return out
}

// comparison collects the stages of one case.
type comparison struct {
	c     *refcase.Case
	v     *Verdict
	seen  map[string]bool
	worst float64 // share of the tolerance
}

// stage compares one emitted stage; stages that the case does not expect are passed over.
func (k *comparison) stage(name string, t tensor.Tensor) {
	if k.c.Shape(name) == nil || k.seen[name] {
		return
	}
	k.seen[name] = true
	k.v.Stages++
	diff, tol, err := k.c.Compare(name, t)
	share := diff / max(tol, 1e-30)
	if tol == 0 && diff == 0 {
		share = 0
	}
	if err != nil && k.v.Err == nil || k.v.Err == nil && share >= k.worst {
		k.worst = share
		k.v.Stage, k.v.MaxAbs, k.v.Tolerance, k.v.Err = name, diff, tol, err
	}
}

// finish settles the verdict: an error of the run, or a stage that never came, fails it.
func (k *comparison) finish(err error) {
	if k.v.Err == nil {
		k.v.Err = err
	}
	for _, name := range k.c.Stages() {
		if !k.seen[name] && k.v.Err == nil {
			k.v.Stage, k.v.Tolerance = name, k.c.Tolerance(name)
			k.v.Err = fmt.Errorf("pipeline: stage %q was not produced", name)
		}
	}
	if len(k.c.Stages()) == 0 && k.v.Err == nil {
		k.v.Err = errors.New("pipeline: the case expects no stage")
	}
	k.v.Pass = k.v.Err == nil
}
