package main

import (
	"fmt"
	"regexp"
	"strings"
)

// armOps are the three-register instructions of NEON on four float32, which the assembler
// does not know: destination in bits 0-4, first operand in 5-9, second in 16-20.
var armOps = map[string]uint32{
	"VADDPS": 0x4e20d400, "VSUBPS": 0x4ea0d400, "VMULPS": 0x6e20dc00, "VDIVPS": 0x6e20fc00,
	"VMAXPS": 0x4e20f400, "VMINPS": 0x4ea0f400, "VFMADD231PS": 0x4e20cc00,
}

// word writes an instruction by its code.
func (v *vec) word(code uint32, name string, d, n, m int) {
	v.op("WORD $0x%08x // %s V%d, V%d, V%d", code|uint32(m)<<16|uint32(n)<<5|uint32(d), name, m, n, d)
}

// fmaLane is d += a·(lane of b).
func (v *vec) fmaLane(d, a, b, lane int) {
	v.word(0x4f801000|uint32(lane&1)<<21|uint32(lane>>1)<<11, fmt.Sprintf("FMLA lane %d", lane), d, a, b)
}

// armRegisters stand for the registers that the loops are written with.
var armRegisters = map[string]string{"AX": "R0", "BX": "R1", "CX": "R2", "DX": "R3", "SI": "R4", "DI": "R5"}

var (
	armRegister = regexp.MustCompile(`\b(AX|BX|CX|DX|SI|DI)\b`)
	indexedMem  = regexp.MustCompile(`^\((\w+)\)\((\w+)\*1\)$`)
	armJumps    = map[string]string{"JNZ": "BNE", "JZ": "BEQ", "JG": "BGT", "JGE": "BGE", "JLT": "BLT", "JLE": "BLE", "JMP": "B"}
)

// indexed turns (X)(Y*1) into a plain operand.
func (v *vec) indexed(mem string) string {
	if m := indexedMem.FindStringSubmatch(mem); m != nil {
		v.op("ADD %s, %s, R13", m[2], m[1])
		return "(R13)"
	}
	return mem
}

// toARM translates the few integer instructions that the loops are written with.
func toARM(text string) string {
	text = armRegister.ReplaceAllStringFunc(text, func(r string) string { return armRegisters[r] })
	op, rest, _ := strings.Cut(text, " ")
	args := strings.Split(rest, ", ")
	if b, ok := armJumps[op]; ok {
		return b + " " + rest
	}
	switch op {
	case "MOVQ":
		return "MOVD " + rest
	case "ADDQ":
		return fmt.Sprintf("ADDS %s, %s, %s", args[0], args[1], args[1])
	case "SUBQ":
		return fmt.Sprintf("SUBS %s, %s, %s", args[0], args[1], args[1])
	case "DECQ":
		return fmt.Sprintf("SUBS $1, %s, %s", args[0], args[0])
	case "SHLQ":
		return fmt.Sprintf("LSL %s, %s, %s", args[0], args[1], args[1])
	case "XORQ":
		return "MOVD $0, " + args[1]
	case "TESTQ":
		return "CMP $0, " + args[0]
	case "CMPQ":
		return fmt.Sprintf("CMP %s, %s", args[1], args[0])
	}
	return text
}
