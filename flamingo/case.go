package flamingo

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// RunBlockCase runs a reference case of one gated cross-attention layer (kind
// "flamingo/gated_xattn_block"): both mask rules, cached media and no media locations. Every
// stage goes to a.Trace.
func RunBlockCase(a *tensor.Arena, c *refcase.Case) error {
	var p struct {
		Dim     int     `json:"dim"`
		Visual  int     `json:"dim_visual"`
		DimHead int     `json:"dim_head"`
		Heads   int     `json:"heads"`
		FFMult  int     `json:"ff_mult"`
		Eps     float32 `json:"layer_norm_eps"`
	}
	if err := json.Unmarshal(c.Config, &p); err != nil {
		return fmt.Errorf("flamingo: case %s: config: %w", c.Name, err)
	}
	cfg := Cross{
		Kind: OpenFlamingoCross, Every: 1, Media: p.Visual, Heads: cmp.Or(p.Heads, 8), HeadDim: cmp.Or(p.DimHead, 64),
		Hidden: cmp.Or(p.FFMult, 4) * p.Dim, Eps: cmp.Or(p.Eps, 1e-5),
	}
	src, err := c.Source()
	if err != nil {
		return err
	}
	g, err := weights.Bind(src, func(s weights.Scope) (*gated, error) { return newOpenFlamingo(s, cfg, p.Dim), nil })
	if err != nil {
		return err
	}
	media, ok := c.Tensor("media")
	x, ok2 := c.Tensor("x")
	cached, ok3 := c.Tensor("x_cached")
	at, _, ok4 := c.Ints("media_locations")
	if !ok || !ok2 || !ok3 || !ok4 {
		return fmt.Errorf("flamingo: case %s lacks an input", c.Name)
	}
	seen := make([]int, x.Dim(0)) // media tokens of a row
	for _, rule := range []string{"immediate", "all_previous"} {
		sights := make([][]sight, x.Dim(0))
		for i := range sights {
			n := 0
			for t := range x.Dim(1) {
				n += at[i*x.Dim(1)+t]
				sights[i] = append(sights[i], flamingoSight(n, media.Dim(1), rule == "all_previous"))
			}
			seen[i] = n
		}
		g.attnID, g.afterID, g.ffID, g.outID = rule+".attn_branch", rule+".after_attn", rule+".ff_branch", rule+".output"
		g.runBlock(a, x, media, sights)
		g.attnID, g.afterID, g.ffID, g.outID = "", "", "", rule+".cached_output"
		for i := range sights {
			s := flamingoSight(seen[i], media.Dim(1), rule == "all_previous")
			sights[i] = []sight{s, s, s}
		}
		g.runBlock(a, cached, media, sights)
	}
	g.outID = "no_locations.output"
	sights := make([][]sight, x.Dim(0))
	for i := range sights {
		sights[i] = make([]sight, x.Dim(1))
		for t := range sights[i] {
			sights[i][t].to = media.Dim(1)
		}
	}
	g.runBlock(a, x, media, sights)
	return nil
}

// runBlock runs the layer over x (B×T×Width) with media (B×P×n×Media).
func (g *gated) runBlock(a *tensor.Arena, x, media tensor.Tensor, sights [][]sight) {
	b, t := x.Dim(0), x.Dim(1)
	runs := make([]run, b)
	for i := range runs {
		runs[i] = run{from: i * t, to: (i + 1) * t, see: sights[i], mem: &memory{}, pictures: media.Dim(1), latents: media.Dim(2)}
		g.project(a, runs[i].mem, media.At(i))
	}
	emit := a.Trace
	defer func() { a.Trace = emit }()
	if emit != nil {
		a.Trace = func(name string, s tensor.Tensor) { emit(name, s.Reshape(b, t, s.Cols())) }
	}
	y := x.Clone()
	g.forward(a, y.Reshape(b*t, x.Cols()), runs)
}
