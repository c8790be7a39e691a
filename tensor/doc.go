// Package tensor holds float32 arrays and the scratch memory of one forward pass.
//
// A Tensor is data and a shape, row-major, batch first. It has no methods that compute:
// arithmetic is in internal/kernel and internal/nn. An Arena hands out scratch tensors that
// live until the pass (or a marked part of it) ends, so that a forward in the steady state
// allocates nothing, and lets tests look inside a pass through its Trace hook.
//
//	var a tensor.Arena                  // zero value ready
//	m := a.Mark()
//	x := a.New(2, 512, 1024)            // contents undefined until written
//	…
//	a.Release(m)                        // x's memory may be handed out again
//
// DType names the arithmetics that a model can be bound in: weights.Options{DType: tensor.BF16}.
package tensor
