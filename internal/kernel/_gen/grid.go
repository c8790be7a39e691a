package main

// emitGrid writes the two passes of attention over a grid; the argument's layout is
// gridTileArgs in grid.go.
func emitGrid(v *vec) {
	w := v.bytes()
	head := func(col int) {
		v.op("MOVQ t+0(FP), DI")
		for i, r := range []string{"SI", "R8", "DX", "BX"} { // c, sh, sw, inv
			v.op("MOVQ %d(DI), %s", 8*i, r)
		}
		v.op("MOVQ 64(DI), CX")
		if col > 0 {
			for _, r := range []string{"SI", "R8", "DX"} {
				v.op("ADDQ $%d, %s", col, r)
			}
		}
	}
	v.fn("gridScores", "writes c[k] = (c[k]+sh+sw[k])·inv[k] and the maxima over k into top.", "t *gridTileArgs", 8)
	for col := 0; col < 128; col += 2 * w {
		head(col)
		v.op("MOVQ 32(DI), R9") // top
		v.ld(2, at(0, "R8"))
		v.ld(3, at(w, "R8"))
		v.ld(4, at(col, "R9"))
		v.ld(5, at(col+w, "R9"))
		loop := v.label("loop")
		v.at(loop)
		v.bc(6, "(BX)")
		for i := range 2 {
			v.ld(i, at(i*w, "SI"))
			v.ld(7+i, at(i*w, "DX"))
			v.add(7+i, 7+i, 2+i)
			v.add(i, i, 7+i)
			v.mul(i, i, 6)
			v.max(4+i, 4+i, i)
			v.st(i, at(i*w, "SI"))
		}
		v.op("ADDQ $128, SI")
		v.op("ADDQ $128, DX")
		v.op("ADDQ $4, BX")
		v.op("DECQ CX")
		v.op("JNZ %s", loop)
		v.st(4, at(col, "R9"))
		v.st(5, at(col+w, "R9"))
	}
	v.ret()

	v.fn("gridWeights", "writes c[k] = p·inv[k] with p = exp(c[k]−ref), adds p to sum and c[k] to ah\n// and aw[k].", "t *gridTileArgs", 8)
	for col := 0; col < 128; col += 2 * w {
		head(col)
		v.op("MOVQ 40(DI), R9")  // ml: ref, sum
		v.op("MOVQ 48(DI), R10") // ah
		v.op("MOVQ 56(DI), R11") // aw
		if col > 0 {
			for _, r := range []string{"R9", "R10", "R11"} {
				v.op("ADDQ $%d, %s", col, r)
			}
		}
		for i := range 2 {
			v.ld(2+i, at(i*w, "R9"))
			v.ld(4+i, at(128+i*w, "R9"))
			v.ld(6+i, at(i*w, "R10"))
		}
		loop := v.label("loop")
		v.at(loop)
		for i := range 2 {
			v.ld(i, at(i*w, "SI"))
			v.sub(i, i, 2+i)
			v.exp(i, 8, 9, 10)
			v.add(4+i, 4+i, i)
			v.bc(11, "(BX)")
			v.mul(i, i, 11)
			v.add(6+i, 6+i, i)
			v.st(i, at(i*w, "SI"))
			v.ld(8, at(i*w, "R11"))
			v.add(8, 8, i)
			v.st(8, at(i*w, "R11"))
		}
		v.op("ADDQ $128, SI")
		v.op("ADDQ $128, R11")
		v.op("ADDQ $4, BX")
		v.op("DECQ CX")
		v.op("JNZ %s", loop)
		for i := range 2 {
			v.st(4+i, at(128+i*w, "R9"))
			v.st(6+i, at(i*w, "R10"))
		}
	}
	v.ret()

	v.fn("gridBias", "writes c[k] = (c[k] + sw[k]+sh[k])·inv + bias[k]; sh and bias have a value a key.", "t *gridQueryTile", 8)
	for col := 0; col < 128; col += 2 * w {
		v.op("MOVQ t+0(FP), DI")
		for i, r := range []string{"SI", "R8", "DX", "BX", "R9", "CX"} { // c, sh, sw, bias, inv, n
			v.op("MOVQ %d(DI), %s", 8*i, r)
		}
		if col > 0 {
			for _, r := range []string{"SI", "DX", "R9"} {
				v.op("ADDQ $%d, %s", col, r)
			}
		}
		v.ld(2, at(0, "R9"))
		v.ld(3, at(w, "R9"))
		loop := v.label("loop")
		v.at(loop)
		v.bc(6, "(R8)")
		v.bc(7, "(BX)")
		for i := range 2 {
			v.ld(i, at(i*w, "SI"))
			v.ld(4+i, at(i*w, "DX"))
			v.add(4+i, 4+i, 6)
			v.add(i, i, 4+i)
			v.mov(4+i, 7)
			v.fma(4+i, i, 2+i)
			v.st(4+i, at(i*w, "SI"))
		}
		v.op("ADDQ $128, SI")
		v.op("ADDQ $128, DX")
		v.op("ADDQ $4, R8")
		v.op("ADDQ $4, BX")
		v.op("DECQ CX")
		v.op("JNZ %s", loop)
	}
	v.ret()
}
