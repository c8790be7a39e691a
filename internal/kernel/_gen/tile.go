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

// tileTable writes the Go table of a family of tiles, [index of the width][rows].
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

// widths are the columns of tiles: a panel, a half and a quarter of one.
var widths = []int{8, 16, 32}

// emitTiles512 writes the f32 tiles of 1 to 14 rows by 8, 16 or 32 columns.
func emitTiles512(v *vec) {
	for _, width := range widths {
		for rows := 1; rows <= 14; rows++ {
			tile512(v, "tile", "float32", rows, width, 2, nil, v.fma)
		}
	}
	tileTable(v, "tile", widths, 14)
	for _, f := range []struct {
		name, doc string
		load      func(d int, mem string)
	}{{"tileF16W", "float16-weight", v.widenF16}, {"tileBF16W", "bfloat16-weight", v.widenBF16}} {
		for _, width := range widths {
			for rows := 1; rows <= smallRows; rows++ {
				tile512(v, f.name, f.doc, rows, width, 1, f.load, v.fma)
			}
		}
		tileTable(v, f.name, widths, smallRows)
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
// bytes and load, unless nil, widens 16 of them into a register. Eight columns are done in
// 256-bit registers, of which there are twice as many operations a cycle.
//
// A tile of more than a few rows leaves load slots free, so each step of k prefetches a line:
// of the stream it is given, then, in the last steps, of where its result will go.
func tile512(v *vec, family, what string, rows, width, shift int, load func(d int, mem string), op func(acc, a, b int)) {
	if width == 8 {
		v.reg = "Y"
		defer func() { v.reg = "Z" }()
	}
	if load == nil {
		load = v.ld
	}
	n := (width + 15) / 16
	tileHead(v, fmt.Sprintf("%sx%dx%d", family, rows, width), fmt.Sprintf("is the %s tile of %d rows by %d columns.", what, rows, width), 2, shift)
	acc := func(r, h int) int { return r*n + h }
	resume, ready, loop, store := v.label("load"), v.label("ready"), v.label("loop"), v.label("store")
	few := rows <= smallRows
	if !few {
		v.op("MOVQ 72(DI), R10")
		v.op("MOVQ 80(DI), R11")
		v.op("MOVQ 88(DI), R12")
		v.op("MOVQ 96(DI), R13")
		v.op("TESTQ R10, R10")
		v.op("CMOVQEQ SI, R10") // nothing to fetch: what is near
		v.op("XORL DI, DI")     // rounds of touching left
	}
	v.op("TESTQ AX, AX")
	v.op("JNZ %s", resume)
	for i := range rows * n {
		v.zero(i)
	}
	v.op("JMP %s", ready)
	v.at(resume)
	for r := range rows {
		for h := range n {
			v.ld(acc(r, h), at(r*128+h*64, "BX"))
		}
	}
	v.at(ready)
	// Lines at these steps from the first byte of a row cover it, wherever lines begin.
	rounds, step := 2, 4*width-4
	if width == 32 {
		rounds, step = 3, 62
	}
	if !few {
		v.op("TESTQ R12, R12")
		v.op("JZ %s", loop)
		v.op("MOVQ CX, AX")
		v.op("SUBQ $%d, AX", rounds*rows)
		v.op("JLE %s", loop)
		v.op("MOVQ AX, CX")
		v.op("MOVL $%d, DI", rounds)
	}
	v.op("PCALIGN $32")
	v.at(loop)
	if few {
		for line := 0; line < width<<shift; line += 64 { // a few rows are bound by memory: into L2, which waits for more lines at once than L1
			v.op("PREFETCHT1 %d(DX)", 8192+line)
		}
	} else {
		v.op("PREFETCHT0 (R10)")
		v.op("ADDQ R11, R10")
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
	if !few {
		v.op("DECL DI")
		v.op("JLT %s", store)
		v.op("MOVQ R12, R10")
		v.op("ADDQ $%d, R12", step)
		v.op("MOVQ R13, R11")
		v.op("MOVL $%d, CX", rows)
		v.op("JMP %s", loop)
	}
	v.at(store)
	for r := range rows {
		for h := range n {
			v.st(acc(r, h), at(r*128+h*64, "BX"))
		}
	}
	v.ret()
}

// emitTiles256 writes the f32 tiles of 1 to 6 rows by 8 or 16 columns.
func emitTiles256(v *vec) {
	for _, width := range []int{8, 16} {
		for rows := 1; rows <= 6; rows++ {
			tile256(v, rows, width/8)
		}
	}
	tileTable(v, "tile", []int{8, 16}, 6)
}

// tile256 writes the f32 tile of some rows by n vectors.
func tile256(v *vec, rows, n int) {
	tileHead(v, fmt.Sprintf("tilex%dx%d", rows, n*8), fmt.Sprintf("is the f32 tile of %d rows by %d columns.", rows, n*8), 2, 2)
	load, loop := v.label("load"), v.label("loop")
	v.op("TESTQ AX, AX")
	v.op("JNZ %s", load)
	for i := range rows * n {
		v.zero(i)
	}
	v.op("JMP %s", loop)
	v.at(load)
	for r := range rows {
		for h := range n {
			v.ld(r*n+h, at(r*128+h*32, "BX"))
		}
	}
	v.at(loop)
	for h := range n {
		v.ld(12+h, at(h*32, "DX"))
	}
	for r := range rows {
		b := 14 + r%2
		v.bc(b, at(r*4, "SI"))
		for h := range n {
			v.fma(r*n+h, b, 12+h)
		}
	}
	v.op("ADDQ R8, SI")
	v.op("ADDQ R9, DX")
	v.op("DECQ CX")
	v.op("JNZ %s", loop)
	for r := range rows {
		for h := range n {
			v.st(r*n+h, at(r*128+h*32, "BX"))
		}
	}
	v.ret()
}

// emitTilesNEON writes the f32 tiles of 1 to 12 rows by 8 columns: 24 sums, 2 registers of b
// and 3 of a, four rows in each. Rows beyond a multiple of four have a register each.
func emitTilesNEON(v *vec) {
	for rows := 1; rows <= 12; rows++ {
		tileHead(v, fmt.Sprintf("tilex%dx8", rows), fmt.Sprintf("is the f32 tile of %d rows by 8 columns.", rows), 2, 2)
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
				v.ld(r*2+h, at(r*128+h*16, "BX"))
			}
		}
		v.at(loop)
		v.ld(24, "(DX)")
		v.ld(25, "16(DX)")
		quads := rows / 4
		for q := range quads {
			v.ld(26+q, at(q*16, "SI"))
		}
		for r := 4 * quads; r < rows; r++ {
			v.op("FMOVS %s, F%d", at(r*4, "SI"), 26+quads+r%4)
		}
		for r := range rows {
			a, lane := 26+r/4, r%4
			if r >= 4*quads {
				a, lane = 26+quads+r%4, 0
			}
			for h := range 2 {
				v.fmaLane(r*2+h, 24+h, a, lane)
			}
		}
		v.op("ADDQ R8, SI")
		v.op("ADDQ R9, DX")
		v.op("DECQ CX")
		v.op("JNZ %s", loop)
		for r := range rows {
			for h := range 2 {
				v.st(r*2+h, at(r*128+h*16, "BX"))
			}
		}
		v.ret()
	}
	tileTable(v, "tile", []int{8}, 12)
}
