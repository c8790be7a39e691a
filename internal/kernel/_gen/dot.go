package main

import "fmt"

// evex writes an AVX-512 instruction of opcode map 0F38 on three registers that the assembler
// does not know: prefix pp is 1 for 66, 2 for F3, 3 for F2.
func (v *vec) evex(name string, pp, opcode, dst, src1, src2 int) {
	inv := func(x, bit int) int { return 1 - x>>bit&1 }
	p0 := inv(dst, 3)<<7 | inv(src2, 4)<<6 | inv(src2, 3)<<5 | inv(dst, 4)<<4 | 2
	p1 := (^src1&15)<<3 | 1<<2 | pp
	p2 := 0x40 | inv(src1, 4)<<3
	if v.reg == "Y" {
		p2 = 0x20 | inv(src1, 4)<<3
	}
	modrm := 0xc0 | dst&7<<3 | src2&7
	v.op("LONG $0x%02x%02x%02x62; WORD $0x%02x%02x // %s %s, %s, %s", p2, p1, p0, modrm, opcode, name, v.r(src2), v.r(src1), v.r(dst))
}

// dpbf16 is dst += Σ over pairs of bfloat16 a·b.
func (v *vec) dpbf16(dst, a, b int) { v.evex("VDPBF16PS", 2, 0x52, dst, a, b) }

// cvt2 writes the 32 bfloat16 of lo then hi.
func (v *vec) cvt2(dst, lo, hi int) { v.evex("VCVTNE2PS2BF16", 3, 0x72, dst, hi, lo) }

// emitDots512 writes the bf16 and int8 tiles and what prepares their operands. Strides and
// depths count 32-bit groups: two bfloat16 or four bytes.
func emitDots512(v *vec) {
	families := []struct {
		name, doc string
		op        func(acc, a, b int)
	}{
		{"tileBF16", "bfloat16", v.dpbf16},
		{"tileInt8", "uint8 by int8", func(acc, a, b int) { v.op("VPDPBUSD %s, %s, %s", v.r(b), v.r(a), v.r(acc)) }},
	}
	for _, f := range families {
		for _, width := range widths {
			for rows := 1; rows <= 14; rows++ {
				tile512(v, f.name, f.doc, rows, width, 2, nil, f.op)
			}
		}
		tileTable(v, f.name, widths, 14)
		emitPeak(v, "peak"+f.name[4:], "runs n times 12 products of "+f.doc+".", f.op)
	}

	v.fn("cvtBF16", "rounds n values to bfloat16, n a multiple of 32.", "dst, src *float32, n int", 24)
	v.op("MOVQ dst+0(FP), DI")
	v.op("MOVQ src+8(FP), SI")
	v.op("MOVQ n+16(FP), CX")
	loop := v.label("loop")
	v.at(loop)
	v.ld(0, "(SI)")
	v.ld(1, "64(SI)")
	v.cvt2(2, 0, 1)
	v.st(2, "(DI)")
	v.op("ADDQ $128, SI")
	v.op("ADDQ $64, DI")
	v.op("SUBQ $32, CX")
	v.op("JG %s", loop)
	v.ret()

	v.fn("minMax", "writes the minima and maxima of x and 0, a lane each; n a multiple of 16.", "out, x *float32, n int", 24)
	v.op("MOVQ out+0(FP), DI")
	v.op("MOVQ x+8(FP), SI")
	v.op("MOVQ n+16(FP), CX")
	v.zero(0)
	v.zero(1)
	loop = v.label("loop")
	v.at(loop)
	v.ld(2, "(SI)")
	v.min(0, 0, 2)
	v.max(1, 1, 2)
	v.op("ADDQ $64, SI")
	v.op("SUBQ $16, CX")
	v.op("JG %s", loop)
	v.st(0, "(DI)")
	v.st(1, "64(DI)")
	v.ret()

	v.fn("quantise", "writes round(x·inv+zero) as bytes, cut off at 0 and 255; n a multiple of 16.", "dst, src *float32, n int, inv, zero float32", 32)
	v.op("MOVQ dst+0(FP), DI")
	v.op("MOVQ src+8(FP), SI")
	v.op("MOVQ n+16(FP), CX")
	v.bc(3, "inv+24(FP)")
	v.bc(4, "zero+28(FP)")
	v.zero(5)
	loop = v.label("loop")
	v.at(loop)
	v.ld(0, "(SI)")
	v.op("VFMADD213PS Z4, Z3, Z0")
	v.max(0, 0, 5)
	v.op("VCVTPS2DQ Z0, Z0")
	v.op("VPMOVUSDB Z0, (DI)")
	v.op("ADDQ $64, SI")
	v.op("ADDQ $16, DI")
	v.op("SUBQ $16, CX")
	v.op("JG %s", loop)
	v.ret()

	v.fn("dequantise", "turns rows×32 int32 sums c into (c − zero[row]·sums)·step[row]·scale.", "c, step, zero, sums, scale *float32, rows int", 48)
	for i, r := range []string{"DI", "R8", "R9", "R10", "R11", "CX"} {
		v.op("MOVQ %s+%d(FP), %s", []string{"c", "step", "zero", "sums", "scale", "rows"}[i], 8*i, r)
	}
	for h := range 2 {
		v.ld(4+h, at(64*h, "R10"))
		v.ld(6+h, at(64*h, "R11"))
	}
	loop = v.label("loop")
	v.at(loop)
	v.bc(8, "(R8)")
	v.bc(9, "(R9)")
	for h := range 2 {
		v.op("VPMULLD Z9, Z%d, Z%d", 4+h, 2+h)
		v.ld(h, at(64*h, "DI"))
		v.op("VPSUBD Z%d, Z%d, Z%d", 2+h, h, h)
		v.op("VCVTDQ2PS Z%d, Z%d", h, h)
		v.mul(2+h, 6+h, 8)
		v.mul(h, h, 2+h)
		v.st(h, at(64*h, "DI"))
	}
	v.op("ADDQ $128, DI")
	v.op("ADDQ $4, R8")
	v.op("ADDQ $4, R9")
	v.op("DECQ CX")
	v.op("JNZ %s", loop)
	v.ret()

	// word 2i of the result is word i of the low half, 2i+1 word i of the high half
	v.tables.WriteString("\n")
	for i := range 16 {
		fmt.Fprintf(&v.tables, "DATA interleave<>+%d(SB)/4, $0x%04x%04x\n", 4*i, 16+i, i)
	}
	v.tables.WriteString("GLOBL interleave<>(SB), RODATA|NOPTR, $64\n")
	v.fn("pairRows", "writes dst[i·ds+j] = bfloat16 pair (src[2i·ls+j], src[(2i+1)·ls+j]) for j < cols,\n// an odd last row being paired with zeros.", "dst *float32, ds int, src *float32, ls, rows, cols int", 48)
	for i, r := range []string{"DI", "R8", "SI", "R9", "R10", "DX"} {
		v.op("MOVQ %s+%d(FP), %s", []string{"dst", "ds", "src", "ls", "rows", "cols"}[i], 8*i, r)
	}
	v.op("SHLQ $2, R8")
	v.op("SHLQ $2, R9")
	v.op("VMOVDQU32 interleave<>(SB), Z3")
	rows, end, cols, single, store := v.label("rows"), v.label("end"), v.label("cols"), v.label("single"), v.label("store")
	next := v.label("next")
	v.at(rows)
	v.op("TESTQ R10, R10")
	v.op("JLE %s", end)
	v.op("XORQ BX, BX") // column in bytes
	v.op("MOVQ DX, R11")
	v.at(cols)
	v.op("MOVQ $16, CX")
	v.op("CMPQ R11, CX")
	v.op("CMOVQLT R11, CX")
	v.op("MOVL $1, AX")
	v.op("SHLL CX, AX")
	v.op("DECL AX")
	v.op("KMOVW AX, K1")
	v.op("LEAQ (SI)(BX*1), R12")
	v.op("VMOVUPS.Z (R12), K1, Z0")
	v.zero(1)
	v.op("CMPQ R10, $1")
	v.op("JEQ %s", single)
	v.op("ADDQ R9, R12")
	v.op("VMOVUPS.Z (R12), K1, Z1")
	v.at(single)
	v.cvt2(2, 0, 1)
	v.op("VPERMW Z2, Z3, Z2")
	v.at(store)
	v.op("VMOVUPS Z2, K1, (DI)(BX*1)")
	v.op("ADDQ $64, BX")
	v.op("SUBQ $16, R11")
	v.op("JG %s", cols)
	v.at(next)
	v.op("ADDQ R8, DI")
	v.op("LEAQ (SI)(R9*2), SI")
	v.op("SUBQ $2, R10")
	v.op("JMP %s", rows)
	v.at(end)
	v.ret()
}
