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
		b := grow(&s.b, (k*width+15)/16*16)
		set.widen[isBF16[p.dt]](&b[0], &p.u16[col*p.k+k0*width], len(b))
		return &b[0]
	case BF16:
		// Two more rows than asked for at most: pairs are widened whole.
		b := grow(&s.b, (k+2)*width)
		for g := k0 / 2; 2*g < k0+k; g++ {
			widenPairs(b[max(0, 2*g-k0)*width:], p.u16[(col*p.groups()+g*width)*2:][:2*width], width, 2*g-k0)
		}
		return &b[0]
	default: // Int8
		b := grow(&s.b, k*width)
		scale := p.scale[col : col+width]
		src := p.i8[col*p.groups()*4:]
		for i := range k {
			row := src[(k0+i)/4*4*width:][:4*width]
			lane := (k0 + i) % 4
			out := b[i*width : (i+1)*width]
			for j, s := range scale {
				out[j] = float32(row[4*j+lane]) * s
			}
		}
		return &b[0]
	}
}

// widenPairs writes the two rows of a group of pairs; only the second when at is −1.
func widenPairs(dst []float32, src []uint16, width, at int) {
	if at < 0 {
		for j := range width {
			dst[j] = fromBF16(src[2*j+1])
		}
		return
	}
	even, odd := dst[:width], dst[width:2*width]
	for j := range even {
		even[j], odd[j] = fromBF16(src[2*j]), fromBF16(src[2*j+1])
	}
}
