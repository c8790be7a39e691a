package flamingo

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/tensor"
)

// RopeKind names a way to stretch rotary embeddings beyond the context they were trained for.
type RopeKind string

// The ways, as published configurations spell them.
const (
	LinearRope  RopeKind = "linear"  // positions divided by the factor
	DynamicRope RopeKind = "dynamic" // a larger base once the text outgrows the trained context
	LLaMA3Rope  RopeKind = "llama3"  // long wavelengths divided, short ones kept, a ramp between
	YaRNRope    RopeKind = "yarn"    // the same by rotations (arXiv 2309.00071), and larger scores
)

// Rope says how rotary embeddings are stretched.
type Rope struct {
	Kind   RopeKind
	Factor float64
	// Trained is the context before stretching, in tokens; LinearRope does not read it.
	Trained int
	// Low and High bound the ramp: LLaMA3Rope by Trained/wavelength, YaRNRope by rotations
	// within Trained tokens.
	Low, High float64
	// Attention multiplies the rotated queries and keys of YaRNRope; 0 means 0.1·ln(Factor)+1.
	Attention float64
}

// amplitude is what sines and cosines are multiplied with.
func (r *Rope) amplitude() float32 {
	if r == nil || r.Kind != YaRNRope {
		return 1
	}
	if r.Attention != 0 {
		return float32(r.Attention)
	}
	return float32(0.1*math.Log(r.Factor) + 1)
}

// grows reports whether a text of that many tokens needs frequencies of its own.
func (r *Rope) grows(tokens int) bool {
	return r != nil && r.Kind == DynamicRope && tokens > r.Trained
}

// frequencies are the angles per position of each pair of channels, in float32 as the
// references (transformers, modeling_rope_utils) compute them, for a text of that many tokens.
func (c Config) frequencies(tokens int) []float32 {
	r, dim, base := c.Rope, c.RotaryDim, c.RotaryBase
	if r.grows(tokens) {
		grown := r.Factor*float64(tokens)/float64(r.Trained) - (r.Factor - 1)
		base *= math.Pow(grown, float64(dim)/float64(dim-2))
	}
	f := make([]float32, dim/2)
	for j := range f {
		f[j] = 1 / float32(math.Pow(base, float64(float32(2*j)/float32(dim))))
	}
	if r == nil {
		return f
	}
	switch r.Kind {
	case LinearRope:
		for j := range f {
			f[j] /= float32(r.Factor)
		}
	case LLaMA3Rope:
		r.ramp(f)
	case YaRNRope:
		r.blend(f, dim, base)
	}
	return f
}

// ramp divides the frequencies of wavelengths above Trained/Low, keeps those below
// Trained/High, and mixes both between.
func (r *Rope) ramp(f []float32) {
	factor, low, high, trained := float32(r.Factor), float32(r.Low), float32(r.High), float32(r.Trained)
	for j, x := range f {
		wave := float32(2*math.Pi) / x
		switch {
		case wave > trained/low:
			f[j] = x / factor
		case wave >= trained/high:
			keep := (trained/wave - low) / (high - low)
			f[j] = (1-keep)*x/factor + keep*x
		}
	}
}

// blend keeps the frequencies that turn more than High times within Trained tokens, divides
// those that turn less than Low times, and mixes both between.
func (r *Rope) blend(f []float32, dim int, base float64) {
	place := func(turns float64) float64 {
		return float64(dim) * math.Log(float64(r.Trained)/(turns*2*math.Pi)) / (2 * math.Log(base))
	}
	from, to := max(math.Floor(place(r.High)), 0), min(math.Ceil(place(r.Low)), float64(dim-1))
	if from == to {
		to += 0.001
	}
	for j, x := range f {
		divide := min(max((float32(j)-float32(from))/float32(to-from), 0), 1)
		f[j] = x/float32(r.Factor)*divide + x*(1-divide)
	}
}

// rope reads "rope_scaling", or "rope_parameters" as newer files call it with the base inside,
// into c, whose context it widens to what the stretched positions reach.
func (p published) rope(c *Config) error {
	var s struct {
		Type      string   `json:"type"`
		RopeType  string   `json:"rope_type"`
		Theta     float64  `json:"rope_theta"`
		Factor    float64  `json:"factor"`
		Original  int      `json:"original_max_position_embeddings"`
		Low       float64  `json:"low_freq_factor"`
		High      float64  `json:"high_freq_factor"`
		Fast      float64  `json:"beta_fast"`
		Slow      float64  `json:"beta_slow"`
		Attention float64  `json:"attention_factor"`
		MScale    *float64 `json:"mscale"`
	}
	for _, raw := range []json.RawMessage{p.RopeScaling, p.RopeParameters} {
		if len(raw) == 0 {
			continue
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("flamingo: config: rope_scaling: %w", err)
		}
	}
	c.RotaryBase = cmp.Or(s.Theta, c.RotaryBase)
	kind := RopeKind(cmp.Or(s.RopeType, s.Type))
	r := &Rope{Kind: kind, Factor: s.Factor, Trained: cmp.Or(s.Original, c.Context), Attention: s.Attention}
	switch {
	case kind == "" || kind == "default":
		return nil
	case kind != LinearRope && kind != DynamicRope && kind != LLaMA3Rope && kind != YaRNRope:
		return fmt.Errorf("flamingo: config: rope_scaling of type %q is not known (known: linear, dynamic, llama3, yarn)", kind)
	case !(s.Factor >= 1) || s.Factor > 1<<16:
		return fmt.Errorf("flamingo: config: rope_scaling: factor of %s: want 1 to %d, got %v", kind, 1<<16, s.Factor)
	case s.MScale != nil:
		return fmt.Errorf("flamingo: config: rope_scaling: mscale of %s is not known here", kind)
	case r.Trained < 1:
		return fmt.Errorf("flamingo: config: rope_scaling: the trained context of %s is %d", kind, r.Trained)
	}
	switch kind {
	case LinearRope, DynamicRope:
		r.Trained = c.Context // the references read max_position_embeddings alone
		c.Context = int(s.Factor * float64(c.Context))
	case LLaMA3Rope:
		r.Low, r.High = s.Low, s.High
		if !(s.Low > 0 && s.High > s.Low) {
			return fmt.Errorf("flamingo: config: rope_scaling: low_freq_factor %v and high_freq_factor %v: want 0 < low < high", s.Low, s.High)
		}
	case YaRNRope:
		r.Low, r.High = cmp.Or(s.Slow, 1), cmp.Or(s.Fast, 32)
		c.Context = max(c.Context, int(s.Factor*float64(r.Trained)))
	}
	c.Rope = r
	return nil
}

// turns writes the sines and cosines of the rows of a part, RotaryDim/2 each.
func (m *Model) turns(cos, sin tensor.Tensor, part Part) {
	inverse := m.inverse
	if length := max(part.Seq.n+len(part.Tokens), part.Seq.planned); m.Config.Rope.grows(length) {
		inverse = m.Config.frequencies(length)
	}
	amplitude := m.Config.Rope.amplitude()
	for i := range part.Tokens {
		c, s := cos.Row(i), sin.Row(i)
		for j, f := range inverse {
			y, x := math.Sincos(float64(float32(part.Seq.n+i) * f))
			s[j], c[j] = float32(y)*amplitude, float32(x)*amplitude
		}
	}
}

// rotate turns the first channels of every head by the row's angles: channel j with channel
// j + RotaryDim/2 (arXiv 2104.09864, in the halves form of GPT-NeoX and LLaMA).
func rotate(x tensor.Tensor, heads int, p placed) {
	width, half := x.Cols()/heads, p.cos.Cols()
	for r := range x.Rows() {
		row, cos, sin := x.Row(r), p.cos.Row(r), p.sin.Row(r)
		for h := range heads {
			lo := row[h*width : h*width+half]
			hi := row[h*width+half : h*width+2*half]
			for j, c := range cos {
				u, v := lo[j], hi[j]
				lo[j] = float32(u*c) - float32(v*sin[j])
				hi[j] = float32(v*c) + float32(u*sin[j])
			}
		}
	}
}
