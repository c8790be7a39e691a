package kernel

import "fmt"

// Epilogue is what happens to a product before it is stored:
//
//	dst = act(scale·product + bias) (+ residual) (+ dst when Add)
//
// The zero value stores the product.
type Epilogue struct {
	Bias     []float32 // N values; nil for none
	Act      Act       // zero is Identity
	Scale    float32   // zero means 1
	Residual []float32 // m×N, added after the activation; may be dst; nil for none
	LDR      int       // row stride of Residual
	Add      bool      // add to what dst holds
}

func (e *Epilogue) check(m, n int) {
	if e.Bias != nil && len(e.Bias) < n {
		panic(fmt.Sprintf("kernel: gemm: bias of %d values for %d outputs", len(e.Bias), n))
	}
	if e.Residual != nil {
		checkMatrix("gemm: residual", e.Residual, e.LDR, m, n)
	}
}

// apply finishes a strip: rows × cols of c (row stride 32), the product's row and column of
// its corner, into dst.
func (e *Epilogue) apply(s *scratch, dst []float32, ldd int, c []float32, row, rows, col, cols int) {
	if e.Scale != 0 && e.Scale != 1 {
		Scale(c[:rows*panel], e.Scale)
	}
	if e.Bias != nil {
		b := s.bias[:]
		clear(b[copy(b, e.Bias[col:col+cols]):])
		for r := range rows {
			x := c[r*panel : r*panel+panel]
			for i := range x {
				x[i] += b[i]
			}
		}
	}
	activate(c[:rows*panel], c[:rows*panel], e.Act)
	for r := range rows {
		x := c[r*panel : r*panel+cols]
		if e.Residual != nil {
			res := e.Residual[(row+r)*e.LDR+col:][:cols]
			for i := range x {
				x[i] += res[i]
			}
		}
		out := dst[r*ldd : r*ldd+cols]
		if e.Add {
			for i := range x {
				x[i] += out[i]
			}
		}
		copy(out, x)
	}
}
