package pipeline

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
)

// Observation is what a model made of one input.
type Observation struct {
	Latents tensor.Tensor   // N×D
	Logits  []tensor.Tensor // in the order they came
	Scores  []bool          // for each of Logits: its last axis is a choice among classes
}

// ObserveCase runs the own input of the reference case in dir, and after it the given items,
// and keeps latents and logits of each. items makes them for the loaded model; it may be nil.
func ObserveCase(ctx context.Context, dir string, items func(Model) ([]Item, error), opt Options) (Info, []Observation, error) {
	c, err := refcase.Load(dir)
	if err != nil {
		return Info{}, nil, err
	}
	defer c.Close()
	m, err := openCase(ctx, c, opt)
	if err != nil {
		return Info{}, nil, err
	}
	r, ok := m.(CaseRunner)
	if !ok {
		return Info{}, nil, fmt.Errorf("pipeline: %s has no reference cases", m.Info().Architecture)
	}
	var first Observation
	if err := r.RunCase(ctx, &tensor.Arena{Trace: first.keep(m)}, caseInput(c)); err != nil {
		return Info{}, nil, err
	}
	all := []Observation{first}
	var its []Item
	if items != nil {
		if its, err = items(m); err != nil {
			return Info{}, nil, err
		}
	}
	for _, it := range its {
		var o Observation
		if _, err := m.Predict(ctx, it, PredictOptions{Trace: o.keep(m), Points: casePoints(c)}); err != nil {
			return Info{}, nil, fmt.Errorf("pipeline: %s: item %s: %w", c.Name, it.ID, err)
		}
		all = append(all, o)
	}
	return m.Info(), all, nil
}

// casePoints is the outputs that an autoencoder's case asks for; nil for other cases.
func casePoints(c *refcase.Case) map[string][]int {
	points := map[string][]int{}
	for _, name := range []string{"image", "audio"} {
		if at, _, ok := c.Ints("subsampled_output_points." + name); ok {
			points[name] = at
		}
	}
	if len(points) == 0 {
		return nil
	}
	return points
}

// keep returns the trace that collects into o.
func (o *Observation) keep(m Model) func(string, tensor.Tensor) {
	task := m.Info().Task
	classes := slices.Contains([]string{"image_classification", "text_classification", "fill_mask"}, task)
	return func(stage string, t tensor.Tensor) {
		switch name, part, _ := strings.Cut(stage, "."); name {
		case "last_hidden_state":
			o.Latents = t.Clone()
		case "logits":
			o.Logits = append(o.Logits, t.Clone())
			o.Scores = append(o.Scores, classes || part == "label")
		}
	}
}

// Deviation is how far one arithmetic is from another on the same inputs.
type Deviation struct {
	Inputs  int        `json:"inputs"`
	Latents Difference `json:"latents"`
	Logits  Difference `json:"logits"`
	// Choices are the rows of logits that choose among classes, Agree those whose best class is
	// the same, and Rank the worst place (1 is best) that the reference's best class takes.
	Choices int `json:"choices,omitempty"`
	Agree   int `json:"agree,omitempty"`
	Rank    int `json:"worst_rank,omitempty"`
}

// Difference sums up two arrays of equal size.
type Difference struct {
	Max      float64 `json:"max_abs"`
	Relative float64 `json:"relative_rms"` // RMS of the difference over RMS of the reference

	square, reference float64 // sums of squares
}

func (d *Difference) add(want, got []float32) {
	for i, w := range want {
		x := float64(got[i]) - float64(w)
		d.Max = max(d.Max, math.Abs(x))
		d.square += x * x
		d.reference += float64(w) * float64(w)
	}
	d.Relative = math.Sqrt(d.square / max(d.reference, math.SmallestNonzeroFloat64))
}

// Deviate compares observations of the same inputs, want being the reference.
func Deviate(want, got []Observation) (Deviation, error) {
	d := Deviation{Inputs: len(want)}
	if len(got) != len(want) {
		return d, fmt.Errorf("pipeline: %d observations to compare with %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if !slices.Equal(w.Latents.Shape, g.Latents.Shape) || len(w.Logits) != len(g.Logits) {
			return d, fmt.Errorf("pipeline: observation %d: latents %v and %d logits, want %v and %d", i, g.Latents.Shape, len(g.Logits), w.Latents.Shape, len(w.Logits))
		}
		d.Latents.add(w.Latents.Data, g.Latents.Data)
		for k, t := range w.Logits {
			if !slices.Equal(t.Shape, g.Logits[k].Shape) {
				return d, fmt.Errorf("pipeline: observation %d: logits %v, want %v", i, g.Logits[k].Shape, t.Shape)
			}
			d.Logits.add(t.Data, g.Logits[k].Data)
			if !w.Scores[k] {
				continue
			}
			for row := range t.Rows() {
				d.choose(t.Row(row), g.Logits[k].Row(row))
			}
		}
	}
	return d, nil
}

// choose compares one choice among classes.
func (d *Deviation) choose(want, got []float32) {
	best, rank := 0, 1
	for i, x := range want {
		if x > want[best] {
			best = i
		}
	}
	for _, x := range got {
		if x > got[best] {
			rank++
		}
	}
	d.Choices++
	d.Rank = max(d.Rank, rank)
	if rank == 1 {
		d.Agree++
	}
}
