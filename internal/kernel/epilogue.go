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

// zeros stands in for a missing bias.
var zeros [panel]float32

// apply finishes a strip: rows × cols of c (row stride 32), the product's row and column of
// its corner, into dst. A column of the result is computed the same way whatever the rows.
func (e *Epilogue) apply(s *scratch, set *set, dst []float32, ldd int, c []float32, row, rows, col, cols int) {
	res, ldr := (*float32)(nil), e.LDR
	if e.Residual != nil {
		res = &e.Residual[row*e.LDR+col]
	}
	both := e.Add && res != nil
	if e.Add && !both {
		res, ldr = &dst[0], ldd
	}
	scale := e.Scale
	if scale == 0 {
		scale = 1
	}
	bias := &zeros[0]
	if e.Bias != nil {
		bias = &e.Bias[col]
		if cols < panel {
			clear(s.bias[copy(s.bias[:], e.Bias[col:col+cols]):])
			bias = &s.bias[0]
		}
	}
	if e.Act != Identity || both || cols < panel {
		if scale != 1 || e.Bias != nil {
			set.finish(&c[0], panel, &c[0], bias, nil, 0, rows, scale)
		}
		if e.Act != Identity {
			set.unary[e.Act](&c[0], &c[0], rows*panel)
		}
		if both || cols < panel {
			e.store(dst, ldd, c, row, rows, col, cols)
			return
		}
		bias, scale = &zeros[0], 1
	}
	set.finish(&dst[0], ldd, &c[0], bias, res, ldr, rows, scale)
}

// store adds what is to be added and writes the strip, any number of columns.
func (e *Epilogue) store(dst []float32, ldd int, c []float32, row, rows, col, cols int) {
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
