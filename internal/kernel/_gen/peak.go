package main

// emitPeak writes loops that do nothing but multiply and add in registers, n times 12
// independent instructions.
func emitPeak(v *vec, name, doc string, op func(acc, a, b int)) {
	v.fn(name, doc, "n int", 8)
	v.op("MOVQ n+0(FP), CX")
	for i := range 14 {
		v.zero(i)
	}
	loop := v.label("loop")
	v.at(loop)
	for i := range 12 {
		op(i, 12, 13)
	}
	v.op("DECQ CX")
	v.op("JNZ %s", loop)
	v.ret()
}
