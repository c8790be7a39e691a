package kernel

// isBF16 indexes the widening loops.
var isBF16 = [...]int{F16W: 0, BF16W: 1}

// slice returns the float32 values of k rows of the panel at column col, widening them
// into scratch when they are stored otherwise.
func (p *Packed) slice(s *scratch, set *set, col, width, k0, k int) *float32 {
	switch p.dt {
	case F32:
		return &p.f32[col*p.k+k0*width]
	case F16W, BF16W:
		b := grow(&s.b, k*width)
		set.widen[isBF16[p.dt]](&b[0], &p.u16[col*p.k+k0*width], len(b))
		return &b[0]
	case BF16:
		b := grow(&s.b, k*width)
		src := p.u16[col*((p.k+1)/2*2):]
		for i := range k {
			row := src[(k0+i)/2*2*width+(k0+i)%2:]
			for j := range width {
				b[i*width+j] = fromBF16(row[2*j])
			}
		}
		return &b[0]
	default: // Int8
		b := grow(&s.b, k*width)
		src := p.i8[col*((p.k+3)/4*4):]
		for i := range k {
			row := src[(k0+i)/4*4*width+(k0+i)%4:]
			for j := range width {
				b[i*width+j] = float32(row[4*j]) * p.scale[col+j]
			}
		}
		return &b[0]
	}
}
