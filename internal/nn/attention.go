package nn

import (
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// Heads says how projected rows divide into attention heads. Head h is the h-th contiguous
// slice of the channels; with grouped queries, query head h reads key head
// h/(Heads/KVHeads).
type Heads struct {
	Heads   int
	KVHeads int // 0 means Heads
	Scale   float32
	Causal  bool // query i sees keys j ≤ i+S−L
	// DType BF16 multiplies in bfloat16; every other value means float32.
	DType kernel.DType
	// KeyBias is added to every score of a key: B×S, or B×Heads×S; empty for none.
	KeyBias tensor.Tensor
	// Mask is added to the scores of every head: B×L×S, or L×S for the whole batch; empty
	// for none.
	Mask tensor.Tensor
}

// Attend returns softmax(scale·q·kᵀ + biases)·v as scratch, B×L×(Heads·V), for projected
// q B×L×(Heads·QK), k B×S×(KVHeads·QK), v B×S×(KVHeads·V). k and v may have B = 1: all of
// the batch then attends to the same rows.
func (h Heads) Attend(a *tensor.Arena, q, k, v tensor.Tensor) tensor.Tensor {
	kv := h.KVHeads
	if kv == 0 {
		kv = h.Heads
	}
	b, l, s := q.Dim(0), q.Dim(1), k.Dim(1)
	qk, vw := q.Cols()/h.Heads, v.Cols()/kv
	if k.Cols() != kv*qk || q.Cols() != h.Heads*qk || v.Cols() != kv*vw || v.Dim(1) != s {
		panic(fmt.Sprintf("nn: attention of q %v, k %v, v %v with %d heads (%d for keys)", q.Shape, k.Shape, v.Shape, h.Heads, kv))
	}
	out := a.New(b, l, h.Heads*vw)
	kb, vb := s*k.Cols(), s*v.Cols()
	if k.Dim(0) == 1 {
		kb, vb = 0, 0
	}
	args := kernel.AttnArgs{
		Heads: h.Heads, KVHeads: kv, QK: qk, V: vw, Scale: h.Scale, L: l, S: s,
		LDQ: q.Cols(), LDK: k.Cols(), LDV: v.Cols(), LDO: out.Cols(), Causal: h.Causal, DType: h.DType,
	}
	for i := range b {
		args.Q = q.At(i).Data
		args.K = k.Data[i*kb:]
		args.VV = v.Data[i*vb:]
		args.Out = out.At(i).Data
		if h.KeyBias.Data != nil {
			args.KeyBias = h.KeyBias.At(i).Data
			if len(h.KeyBias.Shape) == 3 {
				args.KeyBiasStride = s
			}
		}
		if h.Mask.Data != nil {
			args.LDM = s
			args.Mask = h.Mask.Data
			if len(h.Mask.Shape) == 3 {
				args.Mask = h.Mask.At(i).Data
			}
		}
		kernel.Attention(&args)
	}
	return out
}
