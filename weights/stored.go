package weights

import "github.com/mmserve/mmserve/internal/kernel"

// Stored returns the type a tensor is kept in, "" when it is absent or made up.
func (s Scope) Stored(name string) DType {
	dt, _, _ := s.b.src.Stat(s.prefix + name)
	return dt
}

// AsStored returns s with an arithmetic that keeps the named tensor at 16 bits when it is
// stored so and s asks for float32: halves are then widened in the kernel, to the same bits.
func (s Scope) AsStored(name string) Scope {
	if s.dtype != kernel.F32 {
		return s
	}
	switch s.Stored(name) {
	case F16:
		s.dtype = kernel.F16W
	case BF16:
		s.dtype = kernel.BF16W
	}
	return s
}
