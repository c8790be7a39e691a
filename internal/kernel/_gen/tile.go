package main

import "fmt"

// tileHead loads a tile's arguments: BX c, SI a, DX b, CX k, R8 and R9 the strides of a and
// b in bytes, for elements of the given sizes; AX is acc.
func tileHead(v *vec, name, doc string, sizeA, sizeB int) {
	v.fn(name, doc, "t *tileArgs", 8)
	v.op("MOVQ t+0(FP), DI")
	v.op("MOVQ 0(DI), BX")
	v.op("MOVQ 8(DI), SI")
	v.op("MOVQ 16(DI), DX")
	v.op("MOVQ 24(DI), CX")
	v.op("MOVQ 32(DI), R8")
	v.op("MOVQ 40(DI), R9")
	v.op("MOVQ 48(DI), AX")
	v.op("SHLQ $%d, R8", sizeA)
	v.op("SHLQ $%d, R9", sizeB)
}

// tileTable writes the Go table of a family of tiles, [vectors wide − 1][rows].
func tileTable(v *vec, family string, widths []int, rows int) {
	fmt.Fprintf(&v.decl, "\nvar %s%s = [...][%d]func(*tileArgs){\n", family, v.suffix(), rows+1)
	for _, w := range widths {
		fmt.Fprintf(&v.decl, "\t{nil")
		for r := 1; r <= rows; r++ {
			fmt.Fprintf(&v.decl, ", %sx%dx%d%s", family, r, w, v.suffix())
		}
		fmt.Fprintf(&v.decl, "},\n")
	}
	fmt.Fprintf(&v.decl, "}\n")
}

// smallRows is the most rows of a product that widens its operand in the tile itself.
const smallRows = 4

// emitTiles512 writes the f32 tiles of 1 to 14 rows by 16 or 32 columns.
func emitTiles512(v *vec) {
	for _, width := range []int{16, 32} {
		for rows := 1; rows <= 14; rows++ {
			tile512(v, "tile", "float32", rows, width, 2, nil, v.fma)
		}
	}
	tileTable(v, "tile", []int{16, 32}, 14)
	for _, f := range []struct {
		name, doc string
		load      func(d int, mem string)
	}{{"tileF16W", "float16-weight", v.widenF16}, {"tileBF16W", "bfloat16-weight", v.widenBF16}} {
		for _, width := range []int{16, 32} {
			for rows := 1; rows <= smallRows; rows++ {
				tile512(v, f.name, f.doc, rows, width, 1, f.load, v.fma)
			}
		}
		tileTable(v, f.name, []int{16, 32}, smallRows)
	}
}

// widenF16 loads as many float16 as there are lanes.
func (v *vec) widenF16(d int, mem string) {
	if v.arm {
		v.op("FMOVD %s, F%d", mem, d)
		v.word(0x0e217800, "FCVTL", d, d, 0)
		return
	}
	v.op("VCVTPH2PS %s, %s", mem, v.r(d))
}

// widenBF16 loads as many bfloat16 as there are lanes.
func (v *vec) widenBF16(d int, mem string) {
	if v.arm {
		v.op("FMOVD %s, F%d", mem, d)
		v.word(0x2e613800, "SHLL $16", d, d, 0)
		return
	}
	v.op("VPMOVZXWD %s, %s", mem, v.r(d))
	v.op("VPSLLD $16, %s, %s", v.r(d), v.r(d))
}

// emitWiden writes the widening of n 16-bit values, n a multiple of 16.
func emitWiden(v *vec) {
	for _, f := range []struct {
		name string
		load func(d int, mem string)
	}{{"widenF16", v.widenF16}, {"widenBF16", v.widenBF16}} {
		v.fn(f.name, "widens n values, n a multiple of 16.", "dst *float32, src *uint16, n int", 24)
		v.op("MOVQ dst+0(FP), DI")
		v.op("MOVQ src+8(FP), SI")
		v.op("MOVQ n+16(FP), CX")
		loop := v.label("loop")
		v.at(loop)
		for i := range 16 / v.lanes {
			f.load(i, at(i*v.lanes*2, "SI"))
			v.st(i, at(i*v.bytes(), "DI"))
		}
		v.op("ADDQ $32, SI")
		v.op("ADDQ $64, DI")
		v.op("SUBQ $16, CX")
		v.op("JG %s", loop)
		v.ret()
	}
}

// tile512 writes one tile of a family, whose op is acc += a·b; an element of b has 2^shift
// bytes and load, unless nil, widens 16 of them into a register.
func tile512(v *vec, family, what string, rows, width, shift int, load func(d int, mem string), op func(acc, a, b int)) {
	if load == nil {
		load = v.ld
	}
	n := width / 16
	tileHead(v, fmt.Sprintf("%sx%dx%d", family, rows, width), fmt.Sprintf("is the %s tile of %d rows by %d columns.", what, rows, width), 2, shift)
	acc := func(r, h int) int { return r*n + h }
	resume, loop, store := v.label("load"), v.label("loop"), v.label("store")
	v.op("TESTQ AX, AX")
	v.op("JNZ %s", resume)
	for i := range rows * n {
		v.zero(i)
	}
	v.op("JMP %s", loop)
	v.at(resume)
	for r := range rows {
		for h := range n {
			v.ld(acc(r, h), at(r*128+h*64, "BX"))
		}
	}
	v.op("PCALIGN $32")
	v.at(loop)
	if rows <= smallRows {
		for line := 0; line < width<<shift; line += 64 { // a few rows are bound by memory
			v.op("PREFETCHT0 %d(DX)", 4096+line)
		}
	}
	for h := range n {
		load(28+h, at(h*16<<shift, "DX"))
	}
	for r := range rows {
		b := 30 + r%2
		v.bc(b, at(r*4, "SI"))
		for h := range n {
			op(acc(r, h), b, 28+h)
		}
	}
	v.op("ADDQ R8, SI")
	v.op("ADDQ R9, DX")
	v.op("DECQ CX")
	v.op("JNZ %s", loop)
	v.at(store)
	for r := range rows {
		for h := range n {
			v.st(acc(r, h), at(r*128+h*64, "BX"))
		}
	}
	v.ret()
}

// emitTiles256 writes the f32 tiles of 1 to 6 rows by 16 columns.
func emitTiles256(v *vec) {
	for rows := 1; rows <= 6; rows++ {
		tileHead(v, fmt.Sprintf("tilex%dx16", rows), fmt.Sprintf("is the f32 tile of %d rows by 16 columns.", rows), 2, 2)
		load, loop := v.label("load"), v.label("loop")
		v.op("TESTQ AX, AX")
		v.op("JNZ %s", load)
		for i := range rows * 2 {
			v.zero(i)
		}
		v.op("JMP %s", loop)
		v.at(load)
		for r := range rows {
			for h := range 2 {
				v.ld(r*2+h, at(r*128+h*32, "BX"))
			}
		}
		v.at(loop)
		v.ld(12, "(DX)")
		v.ld(13, "32(DX)")
		for r := range rows {
			b := 14 + r%2
			v.bc(b, at(r*4, "SI"))
			v.fma(r*2, b, 12)
			v.fma(r*2+1, b, 13)
		}
		v.op("ADDQ R8, SI")
		v.op("ADDQ R9, DX")
		v.op("DECQ CX")
		v.op("JNZ %s", loop)
		for r := range rows {
			for h := range 2 {
				v.st(r*2+h, at(r*128+h*32, "BX"))
			}
		}
		v.ret()
	}
	tileTable(v, "tile", []int{16}, 6)
}

// emitTilesNEON writes the f32 tiles of 1 to 6 rows by 16 columns: 24 sums, 4 registers of b
// and 4 for the values of a in turn.
func emitTilesNEON(v *vec) {
	for rows := 1; rows <= 6; rows++ {
		tileHead(v, fmt.Sprintf("tilex%dx16", rows), fmt.Sprintf("is the f32 tile of %d rows by 16 columns.", rows), 2, 2)
		load, loop := v.label("load"), v.label("loop")
		v.op("TESTQ AX, AX")
		v.op("JNZ %s", load)
		for i := range rows * 4 {
			v.zero(i)
		}
		v.op("JMP %s", loop)
		v.at(load)
		for r := range rows {
			for h := range 4 {
				v.ld(r*4+h, at(r*128+h*16, "BX"))
			}
		}
		v.at(loop)
		for h := range 4 {
			v.ld(24+h, at(h*16, "DX"))
		}
		for r := range rows {
			a := 28 + r%4
			v.op("FMOVS %s, F%d", at(r*4, "SI"), a)
			for h := range 4 {
				v.fmaLane0(r*4+h, 24+h, a)
			}
		}
		v.op("ADDQ R8, SI")
		v.op("ADDQ R9, DX")
		v.op("DECQ CX")
		v.op("JNZ %s", loop)
		for r := range rows {
			for h := range 4 {
				v.st(r*4+h, at(r*128+h*16, "BX"))
			}
		}
		v.ret()
	}
	tileTable(v, "tile", []int{16}, 6)
}
