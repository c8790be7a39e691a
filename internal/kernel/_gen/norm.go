package main

import "fmt"

// at is a memory operand.
func at(offset int, reg string) string {
	if offset == 0 {
		return "(" + reg + ")"
	}
	return fmt.Sprintf("%d(%s)", offset, reg)
}

// emitNorm writes the passes of the row-wise norms. n is a multiple of the lanes.
func emitNorm(v *vec) {
	lanes := func(name, doc string, each func(x, sum, t int), extra string, args int, before func()) {
		v.fn(name, doc, "out, x *float32, n int"+extra, args)
		v.op("MOVQ out+0(FP), DI")
		v.op("MOVQ x+8(FP), SI")
		v.op("MOVQ n+16(FP), CX")
		before()
		for i := range 4 {
			v.zero(i)
		}
		loop, one, end := v.label("loop"), v.label("one"), v.label("end")
		v.op("SUBQ $%d, CX", 4*v.lanes)
		v.op("JLT %s", one)
		v.at(loop)
		for i := range 4 {
			v.ld(4+i, at(i*v.bytes(), "SI"))
			each(4+i, i, 8+i)
		}
		v.op("ADDQ $%d, SI", 4*v.bytes())
		v.op("SUBQ $%d, CX", 4*v.lanes)
		v.op("JGE %s", loop)
		v.at(one)
		v.op("ADDQ $%d, CX", 3*v.lanes)
		v.op("JLT %s", end)
		loop = v.label("loop")
		v.at(loop)
		v.ld(4, "(SI)")
		each(4, 0, 8)
		v.op("ADDQ $%d, SI", v.bytes())
		v.op("SUBQ $%d, CX", v.lanes)
		v.op("JGE %s", loop)
		v.at(end)
		v.add(0, 0, 1)
		v.add(2, 2, 3)
		v.add(0, 0, 2)
		v.st(0, "(DI)")
		v.ret()
	}
	lanes("sum", "writes the sums of x, a lane each.", func(x, sum, _ int) { v.add(sum, sum, x) }, "", 24, func() {})
	lanes("squares", "writes the sums of (x−mean)², a lane each.", func(x, sum, t int) {
		v.sub(t, x, 12)
		v.fma(sum, t, t)
	}, ", mean float32", 28, func() { v.bc(12, "mean+24(FP)") })

	v.fn("affine", "writes (x−mean)·inv·gamma+beta; gamma and beta may be nil.", "dst, x, gamma, beta *float32, n int, mean, inv float32", 48)
	v.op("MOVQ dst+0(FP), DI")
	v.op("MOVQ x+8(FP), SI")
	v.op("MOVQ gamma+16(FP), R8")
	v.op("MOVQ beta+24(FP), R9")
	v.op("MOVQ n+32(FP), CX")
	v.bc(1, "mean+40(FP)")
	v.bc(2, "inv+44(FP)")
	v.op("XORQ AX, AX")
	v.op("SHLQ $2, CX")
	loop, noGamma, noBeta, end := v.label("loop"), v.label("plain"), v.label("store"), v.label("end")
	v.op("CMPQ AX, CX")
	v.op("JGE %s", end)
	v.at(loop)
	v.ld(0, "(SI)(AX*1)")
	v.sub(0, 0, 1)
	v.mul(0, 0, 2)
	v.op("TESTQ R8, R8")
	v.op("JZ %s", noGamma)
	v.ld(3, "(R8)(AX*1)")
	v.mul(0, 0, 3)
	v.at(noGamma)
	v.op("TESTQ R9, R9")
	v.op("JZ %s", noBeta)
	v.ld(3, "(R9)(AX*1)")
	v.add(0, 0, 3)
	v.at(noBeta)
	v.st(0, "(DI)(AX*1)")
	v.op("ADDQ $%d, AX", v.bytes())
	v.op("CMPQ AX, CX")
	v.op("JLT %s", loop)
	v.at(end)
	v.ret()

	v.fn("maxLanes", "writes the maxima of x, a lane each.", "out, x *float32, n int", 24)
	v.op("MOVQ out+0(FP), DI")
	v.op("MOVQ x+8(FP), SI")
	v.op("MOVQ n+16(FP), CX")
	loop = v.label("loop")
	v.ld(0, "(SI)")
	v.at(loop)
	v.ld(1, "(SI)")
	v.max(0, 0, 1)
	v.op("ADDQ $%d, SI", v.bytes())
	v.op("SUBQ $%d, CX", v.lanes)
	v.op("JG %s", loop)
	v.st(0, "(DI)")
	v.ret()

	v.fn("expSum", "writes exp(max(x, −MaxFloat32)−top) over x and the sums, a lane each.", "out, x *float32, n int, top float32", 28)
	v.op("MOVQ out+0(FP), DI")
	v.op("MOVQ x+8(FP), SI")
	v.op("MOVQ n+16(FP), CX")
	v.bc(4, "top+24(FP)")
	v.zero(5)
	loop = v.label("loop")
	v.at(loop)
	v.ld(0, "(SI)")
	v.maxK(0, 0, -0x1.fffffep+127)
	v.sub(0, 0, 4)
	v.exp(0, 1, 2, 3)
	v.st(0, "(SI)")
	v.add(5, 5, 0)
	v.op("ADDQ $%d, SI", v.bytes())
	v.op("SUBQ $%d, CX", v.lanes)
	v.op("JG %s", loop)
	v.st(5, "(DI)")
	v.ret()

	for _, f := range []struct {
		name, doc string
		op        func(d, a, b int)
	}{{"add", "writes a+b.", v.add}, {"mul", "writes a·b.", v.mul}} {
		v.fn(f.name, f.doc, "dst, a, b *float32, n int", 32)
		v.op("MOVQ dst+0(FP), DI")
		v.op("MOVQ a+8(FP), SI")
		v.op("MOVQ b+16(FP), DX")
		v.op("MOVQ n+24(FP), CX")
		loop := v.label("loop")
		v.at(loop)
		v.ld(0, "(SI)")
		v.ld(1, "(DX)")
		f.op(0, 0, 1)
		v.st(0, "(DI)")
		for _, r := range []string{"SI", "DX", "DI"} {
			v.op("ADDQ $%d, %s", v.bytes(), r)
		}
		v.op("SUBQ $%d, CX", v.lanes)
		v.op("JG %s", loop)
		v.ret()
	}

	v.fn("scale", "multiplies x by s.", "x *float32, n int, s float32", 20)
	v.op("MOVQ x+0(FP), SI")
	v.op("MOVQ n+8(FP), CX")
	v.bc(1, "s+16(FP)")
	loop = v.label("loop")
	v.at(loop)
	v.ld(0, "(SI)")
	v.mul(0, 0, 1)
	v.st(0, "(SI)")
	v.op("ADDQ $%d, SI", v.bytes())
	v.op("SUBQ $%d, CX", v.lanes)
	v.op("JG %s", loop)
	v.ret()
}

// emitFinish writes the last step of a strip: whole panels of 32 columns only.
func emitFinish(v *vec) {
	v.fn("finish", "writes c·scale + bias (+ res) for rows of 32 columns; strides in values, c's is 32.", "dst *float32, ldd int, c, bias, res *float32, ldr, rows int, scale float32", 60)
	v.op("MOVQ dst+0(FP), DI")
	v.op("MOVQ ldd+8(FP), R8")
	v.op("MOVQ c+16(FP), SI")
	v.op("MOVQ bias+24(FP), DX")
	v.op("MOVQ res+32(FP), BX")
	v.op("MOVQ ldr+40(FP), R9")
	v.op("MOVQ rows+48(FP), CX")
	v.bc(12, "scale+56(FP)")
	v.op("SHLQ $2, R8")
	v.op("SHLQ $2, R9")
	n := 32 / v.lanes
	bias, res := 4, 8
	if v.arm {
		bias, res = 16, 24
		v.mov(30, 12)
	}
	scale := 12
	if v.arm {
		scale = 30
	}
	for i := range n {
		v.ld(bias+i, at(i*v.bytes(), "DX"))
	}
	loop, plain := v.label("loop"), v.label("plain")
	v.at(loop)
	for i := range n {
		v.ld(i, at(i*v.bytes(), "SI"))
		v.muladd(i, scale, bias+i)
	}
	v.op("TESTQ BX, BX")
	v.op("JZ %s", plain)
	for i := range n {
		r := res + i%4
		v.ld(r, at(i*v.bytes(), "BX"))
		v.add(i, i, r)
	}
	v.op("ADDQ R9, BX")
	v.at(plain)
	for i := range n {
		v.st(i, at(i*v.bytes(), "DI"))
	}
	v.op("ADDQ R8, DI")
	v.op("ADDQ $128, SI")
	v.op("DECQ CX")
	v.op("JNZ %s", loop)
	v.ret()
}
