package main

import "fmt"

const transposeParams = "dst *float32, ds int, src *float32, ls, rows, k int"

// transposeHead loads DI dst, R8 its stride in bytes, SI src, R9 its stride, R10 rows, CX k.
func transposeHead(v *vec, most int) {
	v.fn("transpose", fmt.Sprintf("writes dst[c·ds+r] = src[r·ls+c] for r < rows ≤ %d and c < k.", most), transposeParams, 48)
	v.op("MOVQ dst+0(FP), DI")
	v.op("MOVQ ds+8(FP), R8")
	v.op("MOVQ src+16(FP), SI")
	v.op("MOVQ ls+24(FP), R9")
	v.op("MOVQ rows+32(FP), R10")
	v.op("MOVQ k+40(FP), DX")
	v.op("SHLQ $2, R8")
	v.op("SHLQ $2, R9")
}

// transposeAhead is how many blocks of 16 columns ahead lines are fetched: what is transposed
// was often written by another core, and so was where it goes.
const transposeAhead = 3

// emitTranspose512 writes the transpose of up to 16 rows, 16 columns at a time. K1 masks the
// columns left, K2 the rows.
func emitTranspose512(v *vec) {
	transposeHead(v, 16)
	v.op("MOVQ R10, CX")
	v.op("MOVL $1, AX")
	v.op("SHLL CX, AX")
	v.op("DECL AX")
	v.op("KMOVW AX, K2")
	v.op("MOVQ R8, R11")
	v.op("SHLQ $4, R11")
	v.op("IMULQ $%d, R11", transposeAhead)
	v.op("ADDQ DI, R11") // where lines are fetched for writing
	block, end := v.label("block"), v.label("end")
	v.at(block)
	v.op("TESTQ DX, DX")
	v.op("JLE %s", end)
	v.op("MOVQ $16, CX")
	v.op("CMPQ DX, CX")
	v.op("CMOVQLT DX, CX")
	v.op("MOVL $1, AX")
	v.op("SHLL CX, AX")
	v.op("DECL AX")
	v.op("KMOVW AX, K1")
	v.op("CMPQ DX, $%d", transposeAhead*16)
	v.op("CMOVQLE DI, R11") // none so far ahead
	loaded := v.label("loaded")
	v.op("MOVQ SI, BX")
	for r := range 16 {
		v.zero(r)
	}
	for r := range 16 {
		if r > 0 {
			v.op("CMPQ R10, $%d", r)
			v.op("JLE %s", loaded)
		}
		v.op("VMOVUPS.Z (BX), K1, Z%d", r)
		v.op("PREFETCHT0 %d(BX)", transposeAhead*64)
		v.op("ADDQ R9, BX")
	}
	v.at(loaded)
	// pairs of rows, then quads: Z16..31 then Z0..15
	for i := 0; i < 16; i += 2 {
		v.op("VUNPCKLPS Z%d, Z%d, Z%d", i+1, i, 16+i)
		v.op("VUNPCKHPS Z%d, Z%d, Z%d", i+1, i, 17+i)
	}
	// after this, register 4q+c holds column c (of each group of 4) of rows 4q..4q+3
	for q := range 4 {
		b := 16 + 4*q
		v.op("VUNPCKLPD Z%d, Z%d, Z%d", b+2, b, 4*q)
		v.op("VUNPCKHPD Z%d, Z%d, Z%d", b+2, b, 4*q+1)
		v.op("VUNPCKLPD Z%d, Z%d, Z%d", b+3, b+1, 4*q+2)
		v.op("VUNPCKHPD Z%d, Z%d, Z%d", b+3, b+1, 4*q+3)
	}
	// 128-bit lanes: lane g of register 4q+c is column 4g+c, rows 4q..4q+3
	for c := range 4 {
		v.op("VSHUFF32X4 $0x88, Z%d, Z%d, Z%d", 4+c, c, 16+c)    // rows 0-7: columns c, 8+c
		v.op("VSHUFF32X4 $0xdd, Z%d, Z%d, Z%d", 4+c, c, 20+c)    // rows 0-7: columns 4+c, 12+c
		v.op("VSHUFF32X4 $0x88, Z%d, Z%d, Z%d", 12+c, 8+c, 24+c) // rows 8-15
		v.op("VSHUFF32X4 $0xdd, Z%d, Z%d, Z%d", 12+c, 8+c, 28+c)
	}
	// lanes of 16+c: [r0-3 col c, r0-3 col 8+c, r4-7 col c, r4-7 col 8+c]
	for c := range 4 {
		v.op("VSHUFF32X4 $0x88, Z%d, Z%d, Z%d", 24+c, 16+c, c)
		v.op("VSHUFF32X4 $0xdd, Z%d, Z%d, Z%d", 24+c, 16+c, 8+c)
		v.op("VSHUFF32X4 $0x88, Z%d, Z%d, Z%d", 28+c, 20+c, 4+c)
		v.op("VSHUFF32X4 $0xdd, Z%d, Z%d, Z%d", 28+c, 20+c, 12+c)
	}
	stored := v.label("stored")
	for c := range 16 {
		if c > 0 {
			v.op("CMPQ DX, $%d", c)
			v.op("JLE %s", stored)
		}
		v.op("VMOVUPS Z%d, K2, (DI)", c)
		v.op("ADDQ R8, DI")
		v.op("BYTE $0x41; BYTE $0x0f; BYTE $0x0d; BYTE $0x0b // PREFETCHW (R11)")
		v.op("ADDQ R8, R11")
	}
	v.at(stored)
	v.op("ADDQ $64, SI")
	v.op("SUBQ $16, DX")
	v.op("JMP %s", block)
	v.at(end)
	v.ret()
}

// emitTranspose256 writes the transpose of up to 8 rows, 8 columns at a time.
func emitTranspose256(v *vec) {
	v.tables.WriteString("\n// eight words of ones, then eight of zeros: masks of the first n lanes\n")
	for i := range 16 {
		x := 0
		if i < 8 {
			x = 0xffffffff
		}
		fmt.Fprintf(&v.tables, "DATA laneMasks<>+%d(SB)/4, $0x%08x\n", 4*i, x)
	}
	v.tables.WriteString("GLOBL laneMasks<>(SB), RODATA|NOPTR, $64\n")
	transposeHead(v, 8)
	v.op("LEAQ laneMasks<>+32(SB), R11")
	v.op("MOVQ R10, AX")
	v.op("SHLQ $2, AX")
	v.op("MOVQ R11, BX")
	v.op("SUBQ AX, BX")
	v.op("VMOVUPS (BX), Y15") // rows
	block, end := v.label("block"), v.label("end")
	v.at(block)
	v.op("TESTQ DX, DX")
	v.op("JLE %s", end)
	v.op("MOVQ $8, CX")
	v.op("CMPQ DX, CX")
	v.op("CMOVQLT DX, CX")
	v.op("SHLQ $2, CX")
	v.op("MOVQ R11, BX")
	v.op("SUBQ CX, BX")
	v.op("VMOVUPS (BX), Y14") // columns
	loaded := v.label("loaded")
	v.op("MOVQ SI, BX")
	for r := range 8 {
		v.zero(r)
	}
	for r := range 8 {
		if r > 0 {
			v.op("CMPQ R10, $%d", r)
			v.op("JLE %s", loaded)
		}
		v.op("VMASKMOVPS (BX), Y14, Y%d", r)
		v.op("ADDQ R9, BX")
	}
	v.at(loaded)
	// four registers are free beside the masks: work by halves of the columns
	// Y8, Y9: rows 0,1; Y10, Y11: rows 2,3
	quad := func(b int) {
		v.op("VUNPCKLPS Y%d, Y%d, Y8", b+1, b)
		v.op("VUNPCKHPS Y%d, Y%d, Y9", b+1, b)
		v.op("VUNPCKLPS Y%d, Y%d, Y10", b+3, b+2)
		v.op("VUNPCKHPS Y%d, Y%d, Y11", b+3, b+2)
		v.op("VUNPCKLPD Y10, Y8, Y%d", b)
		v.op("VUNPCKHPD Y10, Y8, Y%d", b+1)
		v.op("VUNPCKLPD Y11, Y9, Y%d", b+2)
		v.op("VUNPCKHPD Y11, Y9, Y%d", b+3)
	}
	quad(0)
	quad(4)
	stored := v.label("stored")
	for c := range 8 {
		if c > 0 {
			v.op("CMPQ DX, $%d", c)
			v.op("JLE %s", stored)
		}
		imm := 0x20
		if c >= 4 {
			imm = 0x31
		}
		v.op("VPERM2F128 $0x%x, Y%d, Y%d, Y8", imm, 4+c%4, c%4)
		v.op("VMASKMOVPS Y8, Y15, (DI)")
		v.op("ADDQ R8, DI")
	}
	v.at(stored)
	v.op("ADDQ $32, SI")
	v.op("SUBQ $8, DX")
	v.op("JMP %s", block)
	v.at(end)
	v.ret()
}
