package kernel

// tileHalves computes the 32 columns of a tile as twice 16.
func tileHalves(t *tileArgs, f func(*tileArgs)) {
	f(t)
	if t.cols > halfPanel {
		c, b := t.c, t.b
		t.c, t.b = add32(c, halfPanel), add32(b, halfPanel)
		f(t)
		t.c, t.b = c, b
	}
}
