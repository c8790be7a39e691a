package resampler

import (
	"fmt"
	"strings"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// RunCase loads the resampler of a reference case (kind "resampler/…") and runs the case's
// input x, with attention_mask or tgt_sizes where there is one. Every stage goes to a.Trace.
func RunCase(a *tensor.Arena, c *refcase.Case) error {
	src, err := c.Source()
	if err != nil {
		return err
	}
	cfg, err := ParseConfig(c.Config)
	if err != nil {
		return err
	}
	prefix := strings.TrimSuffix(c.Prefix, ".")
	if c.FullSize {
		prefix = cfg.Prefix()
	}
	r, err := weights.Bind(src, func(s weights.Scope) (*Resampler, error) { return New(s.At(prefix), cfg) })
	if err != nil {
		return err
	}
	in, lead, err := caseInput(c, cfg)
	if err != nil {
		return err
	}
	if a.Trace != nil {
		emit := a.Trace
		defer func() { a.Trace = emit }()
		a.Trace = func(name string, t tensor.Tensor) {
			if len(lead) > 1 && t.Dim(0) == in.X.Dim(0) {
				t = t.Reshape(append(append([]int{}, lead...), t.Shape[1:]...)...)
			}
			emit(name, t)
		}
	}
	_, err = r.Forward(a, in)
	return err
}

// caseInput brings a case's inputs to pictures×tokens×width; lead are the axes before the
// tokens, as the reference gives them back.
func caseInput(c *refcase.Case, cfg Config) (in Input, lead []int, err error) {
	x, ok := c.Tensor("x")
	if !ok || len(x.Shape) < 3 {
		return in, nil, fmt.Errorf("resampler: case %s has no input x", c.Name)
	}
	s := x.Shape
	switch {
	case len(s) == 5: // b, T, F, v, dim
		lead, in.Frames = s[:2], s[2]
		in.X = x.Reshape(s[0]*s[1], s[2]*s[3], s[4])
	case len(s) == 4: // b, T, n, dim
		lead = s[:2]
		in.X = x.Reshape(s[0]*s[1], s[2], s[3])
	case cfg.Kind == Lucidrains: // a missing T is kept as 1
		lead, in.X = []int{s[0], 1}, x
	default:
		lead, in.X = s[:1], x
	}
	if len(lead) == 2 {
		for i := range lead[0] * lead[1] {
			in.Media = append(in.Media, i%lead[1])
		}
	}
	if mask, _, ok := c.Ints("attention_mask"); ok {
		for i := range in.X.Dim(0) {
			row := make([]bool, in.X.Dim(1))
			for j := range row {
				row[j] = mask[i*len(row)+j] != 0
			}
			in.Mask = append(in.Mask, row)
		}
	}
	if sizes, _, ok := c.Ints("tgt_sizes"); ok {
		for i := 0; i+1 < len(sizes); i += 2 {
			in.Sizes = append(in.Sizes, [2]int{sizes[i], sizes[i+1]})
		}
	}
	return in, lead, nil
}
