package kernel

// tileAcross computes the columns of a tile by a tile of width columns at a time.
func tileAcross(t *tileArgs, width int, f func(*tileArgs)) {
	c, b := t.c, t.b
	f(t)
	for j := width; j < t.cols; j += width {
		t.c, t.b = add32(c, j), add32(b, j)
		f(t)
	}
	t.c, t.b = c, b
}
