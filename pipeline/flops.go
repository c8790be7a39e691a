package pipeline

import "github.com/mmserve/mmserve/perceiver"

// attentionLayer is what one attention layer with its feed-forward costs: l queries of width
// q, s keys of width c, projected to qk and v, feed-forward widening w. Multiply and add count
// as two; this is the textbook formulation, whatever the kernels save.
func attentionLayer(l, s, q, c, qk, v, w int) float64 {
	f := func(xs ...int) float64 {
		p := 2.0
		for _, x := range xs {
			p *= float64(x)
		}
		return p
	}
	return f(l, q, qk) + f(s, c, qk) + f(s, c, v) + f(l, s, qk) + f(l, s, v) + f(l, v, q) + f(2, l, q, q, w)
}

// encoderFLOPs is one Perceiver IO encoder over m rows of c channels.
func encoderFLOPs(c perceiver.Config, m, channels int) float64 {
	qk, v := c.QKChannels, c.VChannels
	cqk := qk
	if cqk == 0 {
		cqk = channels
		if c.CrossShape == "q" {
			cqk = c.LatentDim
		}
	}
	cv := v
	if cv == 0 {
		cv = cqk
	}
	cost := attentionLayer(c.NumLatents, m, c.LatentDim, channels, cqk, cv, c.CrossWidening)
	if qk == 0 {
		qk = c.LatentDim
	}
	if v == 0 {
		v = qk
	}
	self := attentionLayer(c.NumLatents, c.NumLatents, c.LatentDim, c.LatentDim, qk, v, c.SelfWidening)
	return cost + float64(c.NumBlocks*c.SelfPerBlock)*self
}

// decoderFLOPs is a decoder of o queries of width e over the latents, with a final Linear to f.
func decoderFLOPs(c perceiver.Config, o, e, qk, v, f int) float64 {
	return attentionLayer(o, c.NumLatents, e, c.LatentDim, qk, v, 1) + 2*float64(o)*float64(e)*float64(f)
}
