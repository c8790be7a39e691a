package kernel

import "fmt"

// Act is an activation function.
type Act uint8

// The activations. GELU is exact (erf); GELUTanh its tanh approximation (arXiv
// 1606.08415); QuickGELU is x·sigmoid(1.702x); SiLU x·sigmoid(x).
const (
	Identity Act = iota
	GELU
	GELUTanh
	QuickGELU
	ReLU
	SiLU
	ReLUSquared
	Tanh
)

// String names the activation.
func (a Act) String() string {
	names := [...]string{"identity", "gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "relu_squared", "tanh"}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("Act(%d)", uint8(a))
}

// DType says how a packed operand is stored and multiplied.
type DType uint8

// The element types of a packed operand.
const (
	F32   DType = iota // float32 throughout
	BF16               // weights and inputs rounded to bfloat16 (nearest even), float32 sums
	Int8               // weights int8 with a scale per output, inputs quantised per row to 8 bits, int32 sums
	F16W               // weights stored as float16 and widened exactly, float32 arithmetic
	BF16W              // weights stored as bfloat16 and widened exactly, float32 arithmetic
)

var dtypeNames = [...]string{F32: "f32", BF16: "bf16", Int8: "int8", F16W: "f16w", BF16W: "bf16w"}

// String returns the name that ParseDType reads: f32, bf16, int8, f16w or bf16w.
func (d DType) String() string {
	if int(d) < len(dtypeNames) {
		return dtypeNames[d]
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

// ParseDType reads the name of an element type.
func ParseDType(s string) (DType, error) {
	for i, name := range dtypeNames {
		if s == name {
			return DType(i), nil
		}
	}
	return 0, fmt.Errorf("kernel: unknown element type %q (known: %v)", s, dtypeNames)
}
