package tensor

import "github.com/mmserve/mmserve/internal/kernel"

// DType is the arithmetic of linear layers and how their weights are kept in memory. Inputs,
// results, norms and softmax are float32 in all of them.
type DType = kernel.DType

// The arithmetics that a caller may ask for. Package weights has names of its own for the types
// that files store.
const (
	F32  = kernel.F32  // float32 throughout
	BF16 = kernel.BF16 // weights and inputs of products rounded to bfloat16, sums in float32
	Int8 = kernel.Int8 // weights int8 with a scale an output, inputs quantised row by row

	BF16W = kernel.BF16W // weights kept as bfloat16 and widened exactly, float32 arithmetic
	F16W  = kernel.F16W  // weights kept as float16 and widened exactly, float32 arithmetic
)

// ParseDType reads the name of an arithmetic: "f32", "bf16", "int8", "bf16w" or "f16w".
func ParseDType(s string) (DType, error) { return kernel.ParseDType(s) }
