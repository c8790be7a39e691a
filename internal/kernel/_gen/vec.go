package main

import (
	"fmt"
	"math"
	"strings"
)

// vec is an instruction set seen as vectors of float32, and the text written so far.
type vec struct {
	name   string
	tag    string // build constraint
	lanes  int
	reg    string // register prefix
	tmp    int    // register that holds a broadcast constant
	wide   bool   // AVX-512 encodings
	arm    bool   // NEON
	body   strings.Builder
	decl   strings.Builder
	tables strings.Builder
	consts []float32
	labels int
}

func avx512() *vec {
	return &vec{name: "avx512", tag: "amd64 && !purego", lanes: 16, reg: "Z", tmp: 31, wide: true}
}

func avx2() *vec {
	return &vec{name: "avx2", tag: "amd64 && !purego", lanes: 8, reg: "Y", tmp: 15}
}

func neon() *vec {
	return &vec{name: "neon", tag: "arm64 && !purego", lanes: 4, reg: "V", tmp: 31, arm: true}
}

func (v *vec) bytes() int { return v.lanes * 4 }

// r names register i.
func (v *vec) r(i int) string { return fmt.Sprintf("%s%d", v.reg, i) }

// op writes one instruction.
func (v *vec) op(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if v.arm {
		text = toARM(text)
	}
	if text != "" {
		fmt.Fprintf(&v.body, "\t%s\n", text)
	}
}

// label returns a fresh label.
func (v *vec) label(name string) string {
	v.labels++
	return fmt.Sprintf("%s%d", name, v.labels)
}

// at places a label.
func (v *vec) at(label string) { fmt.Fprintf(&v.body, "%s:\n", label) }

// fn begins a function of the given Go parameters, args bytes long.
func (v *vec) fn(name, doc, params string, args int) {
	fmt.Fprintf(&v.body, "\n// func %s%s(%s)\nTEXT ·%s%s(SB), NOSPLIT, $0-%d\n", name, v.suffix(), params, name, v.suffix(), args)
	fmt.Fprintf(&v.decl, "\n// %s%s %s\n//\n//go:noescape\nfunc %s%s(%s)\n", name, v.suffix(), doc, name, v.suffix(), params)
}

func (v *vec) suffix() string { return strings.ToUpper(v.name[:1]) + v.name[1:] }

// ret ends a function.
func (v *vec) ret() {
	if !v.arm {
		v.op("VZEROUPPER")
	}
	v.op("RET")
}

// con returns the memory operand of a constant.
func (v *vec) con(x float32) string {
	for i, y := range v.consts {
		if math.Float32bits(x) == math.Float32bits(y) {
			return fmt.Sprintf("consts%s<>+%d(SB)", v.suffix(), 4*i)
		}
	}
	v.consts = append(v.consts, x)
	return fmt.Sprintf("consts%s<>+%d(SB)", v.suffix(), 4*(len(v.consts)-1))
}

// ld loads a vector.
func (v *vec) ld(d int, mem string) {
	if v.arm {
		v.op("FMOVQ %s, F%d", v.indexed(mem), d)
		return
	}
	v.op("VMOVUPS %s, %s", mem, v.r(d))
}

// st stores a vector.
func (v *vec) st(s int, mem string) {
	if v.arm {
		v.op("FMOVQ F%d, %s", s, v.indexed(mem))
		return
	}
	v.op("VMOVUPS %s, %s", v.r(s), mem)
}

// bc loads a value into all lanes.
func (v *vec) bc(d int, mem string) {
	if v.arm {
		v.op("FMOVS %s, F%d", mem, d)
		v.op("VDUP V%d.S[0], V%d.S4", d, d)
		return
	}
	v.op("VBROADCASTSS %s, %s", mem, v.r(d))
}

func (v *vec) set(d int, x float32) { v.bc(d, v.con(x)) }

func (v *vec) mov(d, a int) {
	if v.arm {
		v.op("VMOV V%d.B16, V%d.B16", a, d)
		return
	}
	v.op("VMOVAPS %s, %s", v.r(a), v.r(d))
}

// three writes d = a op b.
func (v *vec) three(op string, d, a, b int) {
	if v.arm {
		v.word(armOps[op], op, d, a, b)
		return
	}
	v.op("%s %s, %s, %s", op, v.r(b), v.r(a), v.r(d))
}

func (v *vec) add(d, a, b int) { v.three("VADDPS", d, a, b) }
func (v *vec) sub(d, a, b int) { v.three("VSUBPS", d, a, b) }
func (v *vec) mul(d, a, b int) { v.three("VMULPS", d, a, b) }
func (v *vec) div(d, a, b int) { v.three("VDIVPS", d, a, b) }
func (v *vec) max(d, a, b int) { v.three("VMAXPS", d, a, b) }
func (v *vec) min(d, a, b int) { v.three("VMINPS", d, a, b) }

// fma is d += a·b.
func (v *vec) fma(d, a, b int) { v.three("VFMADD231PS", d, a, b) }

// muladd is d = d·a + c.
func (v *vec) muladd(d, a, c int) {
	if v.arm {
		v.mov(v.tmp, c)
		v.fma(v.tmp, d, a)
		v.mov(d, v.tmp)
		return
	}
	v.op("VFMADD213PS %s, %s, %s", v.r(c), v.r(a), v.r(d))
}

func (v *vec) zero(d int) {
	switch {
	case v.arm:
		v.op("VEOR V%d.B16, V%d.B16, V%d.B16", d, d, d)
	case v.wide:
		v.op("VPXORD %s, %s, %s", v.r(d), v.r(d), v.r(d))
	default:
		v.op("VXORPS %s, %s, %s", v.r(d), v.r(d), v.r(d))
	}
}

// k writes d = a op constant.
func (v *vec) k(op string, d, a int, x float32) {
	if v.wide {
		v.op("%s.BCST %s, %s, %s", op, v.con(x), v.r(a), v.r(d))
		return
	}
	v.set(v.tmp, x)
	if op == "VFMADD213PS" && v.arm {
		v.fma(v.tmp, d, a)
		v.mov(d, v.tmp)
		return
	}
	v.three(op, d, a, v.tmp)
}

func (v *vec) addK(d, a int, x float32) { v.k("VADDPS", d, a, x) }
func (v *vec) mulK(d, a int, x float32) { v.k("VMULPS", d, a, x) }
func (v *vec) maxK(d, a int, x float32) { v.k("VMAXPS", d, a, x) }
func (v *vec) minK(d, a int, x float32) { v.k("VMINPS", d, a, x) }

// fmaK is d += a·constant.
func (v *vec) fmaK(d, a int, x float32) { v.k("VFMADD231PS", d, a, x) }

// horner is d = d·a + constant.
func (v *vec) horner(d, a int, x float32) { v.k("VFMADD213PS", d, a, x) }

// round is d = a rounded to the nearest integer, ties to even.
func (v *vec) round(d, a int) {
	switch {
	case v.arm:
		v.word(0x4e218800, "FRINTN", d, a, 0)
	case v.wide:
		v.op("VRNDSCALEPS $8, %s, %s", v.r(a), v.r(d))
	default:
		v.op("VROUNDPS $8, %s, %s", v.r(a), v.r(d))
	}
}

// ldexp is d = d·2ⁿ for integral n ≥ −127; n is destroyed. 2⁻¹²⁷ counts as 0 where it would
// be subnormal.
func (v *vec) ldexp(d, n int) {
	if v.wide {
		v.op("VSCALEFPS %s, %s, %s", v.r(n), v.r(d), v.r(d))
		return
	}
	if v.arm {
		v.word(0x4e21a800, "FCVTNS", n, n, 0)
		v.set(v.tmp, math.Float32frombits(127))
		v.word(0x4ea08400, "ADD", n, n, v.tmp)
		v.word(0x4f375400, "SHL $23", n, n, 0)
		v.mul(d, d, n)
		return
	}
	v.op("VCVTPS2DQ %s, %s", v.r(n), v.r(n))
	v.op("VPBROADCASTD %s, %s", v.con(math.Float32frombits(127)), v.r(v.tmp))
	v.op("VPADDD %s, %s, %s", v.r(v.tmp), v.r(n), v.r(n))
	v.op("VPSLLD $23, %s, %s", v.r(n), v.r(n))
	v.mul(d, d, n)
}

// neg flips the sign.
func (v *vec) neg(d, a int) {
	if v.arm {
		v.word(0x6ea0f800, "FNEG", d, a, 0)
		return
	}
	if v.wide {
		v.op("VPXORD.BCST %s, %s, %s", v.con(float32(math.Copysign(0, -1))), v.r(a), v.r(d))
		return
	}
	v.set(v.tmp, float32(math.Copysign(0, -1)))
	v.op("VXORPS %s, %s, %s", v.r(v.tmp), v.r(a), v.r(d))
}

// assembly returns the .s file.
func (v *vec) assembly() string {
	var b strings.Builder
	fmt.Fprintf(&b, "// Code generated by internal/kernel/_gen. DO NOT EDIT.\n\n//go:build %s\n\n#include \"textflag.h\"\n\n", v.tag)
	for i, x := range v.consts {
		fmt.Fprintf(&b, "DATA consts%s<>+%d(SB)/4, $0x%08x // %g\n", v.suffix(), 4*i, math.Float32bits(x), x)
	}
	fmt.Fprintf(&b, "GLOBL consts%s<>(SB), RODATA|NOPTR, $%d\n", v.suffix(), 4*len(v.consts))
	return b.String() + v.tables.String() + v.body.String()
}

// declarations returns the Go file that declares the functions.
func (v *vec) declarations() string {
	return fmt.Sprintf("// Code generated by internal/kernel/_gen. DO NOT EDIT.\n\n//go:build %s\n\npackage kernel\n", v.tag) + v.decl.String()
}
