package main

// emitSoftmaxTile writes the online softmax of a transposed score tile, columns of two
// vectors at a time.
func emitSoftmaxTile(v *vec) {
	v.fn("softmaxTile", "turns n rows of scores c[key][32] into exp(c−max), updates the running\n// maxima and sums ml[2][32] and rescales the rows·32 sums o gathered so far.", "c, ml, o *float32, n, rows int", 40)
	w := v.bytes()
	for col := 0; col < 128; col += 2 * w {
		v.op("MOVQ c+0(FP), SI")
		v.op("MOVQ ml+8(FP), DI")
		v.op("MOVQ o+16(FP), R8")
		v.op("MOVQ n+24(FP), CX")
		v.op("MOVQ rows+32(FP), R9")
		if col > 0 {
			v.op("ADDQ $%d, SI", col)
			v.op("ADDQ $%d, DI", col)
			v.op("ADDQ $%d, R8", col)
		}
		v.op("MOVQ SI, AX")
		v.op("MOVQ CX, BX")
		v.ld(0, "(DI)")
		v.ld(1, at(w, "DI"))
		v.mov(2, 0)
		v.mov(3, 1)
		loop := v.label("max")
		v.at(loop)
		v.ld(4, "(AX)")
		v.ld(5, at(w, "AX"))
		v.max(2, 2, 4)
		v.max(3, 3, 5)
		v.op("ADDQ $128, AX")
		v.op("DECQ BX")
		v.op("JNZ %s", loop)

		v.st(2, "(DI)")
		v.st(3, at(w, "DI"))
		// registers 0, 1: exp(old − new); 4, 5: the sums under the new maximum
		v.sub(0, 0, 2)
		v.sub(1, 1, 3)
		v.exp(0, 6, 7, 8)
		v.exp(1, 6, 7, 8)
		v.ld(4, at(128, "DI"))
		v.ld(5, at(128+w, "DI"))
		v.mul(4, 4, 0)
		v.mul(5, 5, 1)
		same, scale := v.label("same"), v.label("scale")
		v.min(6, 0, 1)
		v.ifAllOne(6, same)
		v.op("TESTQ R9, R9")
		v.op("JZ %s", same)
		v.at(scale)
		v.ld(6, "(R8)")
		v.ld(7, at(w, "R8"))
		v.mul(6, 6, 0)
		v.mul(7, 7, 1)
		v.st(6, "(R8)")
		v.st(7, at(w, "R8"))
		v.op("ADDQ $128, R8")
		v.op("DECQ R9")
		v.op("JNZ %s", scale)
		v.at(same)

		loop = v.label("exp")
		v.at(loop)
		v.ld(0, "(SI)")
		v.ld(1, at(w, "SI"))
		v.sub(0, 0, 2)
		v.sub(1, 1, 3)
		v.exp(0, 6, 7, 8)
		v.exp(1, 9, 10, 11)
		v.st(0, "(SI)")
		v.st(1, at(w, "SI"))
		v.add(4, 4, 0)
		v.add(5, 5, 1)
		v.op("ADDQ $128, SI")
		v.op("DECQ CX")
		v.op("JNZ %s", loop)
		v.st(4, at(128, "DI"))
		v.st(5, at(128+w, "DI"))
	}
	v.ret()
}

// ifAllOne jumps when every lane of a, all at most 1, is 1.
func (v *vec) ifAllOne(a int, label string) {
	if v.arm {
		v.word(0x6eb0f800, "FMINV", a, a, 0)
		v.op("FMOVS F%d, R0", a)
		v.op("MOVD $0x3f800000, R13")
		v.op("CMPW R13, R0")
		v.op("BEQ %s", label)
		return
	}
	if v.wide {
		v.op("VCMPPS.BCST $0, %s, %s, K1", v.con(1), v.r(a))
		v.op("KMOVW K1, AX")
		v.op("CMPL AX, $0xffff")
	} else {
		v.set(v.tmp, 1)
		v.op("VCMPPS $0, %s, %s, %s", v.r(v.tmp), v.r(a), v.r(a))
		v.op("VMOVMSKPS %s, AX", v.r(a))
		v.op("CMPL AX, $0xff")
	}
	v.op("JEQ %s", label)
}

// emitBias writes what is added to scores before the softmax.
func emitBias(v *vec) {
	lowest := -float32(0x1.fffffep+127)
	v.fn("keyBias", "writes c[k] = max(c[k]+bias[k], −MaxFloat32) for n rows of 32.", "c, bias *float32, n int", 24)
	v.op("MOVQ c+0(FP), SI")
	v.op("MOVQ bias+8(FP), DX")
	v.op("MOVQ n+16(FP), CX")
	v.set(9, lowest)
	loop := v.label("loop")
	v.at(loop)
	v.bc(8, "(DX)")
	for i := range 32 / v.lanes {
		r := i % 8
		v.ld(r, at(i*v.bytes(), "SI"))
		v.add(r, r, 8)
		v.max(r, r, 9)
		v.st(r, at(i*v.bytes(), "SI"))
	}
	v.op("ADDQ $128, SI")
	v.op("ADDQ $4, DX")
	v.op("DECQ CX")
	v.op("JNZ %s", loop)
	v.ret()

	v.fn("addLowest", "writes c = max(c+x, −MaxFloat32) for n values.", "c, x *float32, n int", 24)
	v.op("MOVQ c+0(FP), SI")
	v.op("MOVQ x+8(FP), DX")
	v.op("MOVQ n+16(FP), CX")
	v.set(9, lowest)
	loop = v.label("loop")
	v.at(loop)
	v.ld(0, "(SI)")
	v.ld(1, "(DX)")
	v.add(0, 0, 1)
	v.max(0, 0, 9)
	v.st(0, "(SI)")
	v.op("ADDQ $%d, SI", v.bytes())
	v.op("ADDQ $%d, DX", v.bytes())
	v.op("SUBQ $%d, CX", v.lanes)
	v.op("JG %s", loop)
	v.ret()
}
