package kernel

// addFew is add for a few queries: keys and the columns of values take the lanes of the
// products, not queries, most of whose 32 lanes would be idle. Every element is the same
// chain as in add.
func (u *queries) addFew(s *scratch, k []float32, ldk int, v []float32, ldv, n int, bias tileBias) {
	c := grow(&s.c, (KeyTile+maxRows)*panel)
	clear(c[:n*panel])
	part := c[KeyTile*panel:]
	pk := grow(&s.a, panel*u.qk)
	t := &s.t
	for from := 0; from < n; from += panel {
		keys := min(panel, n-from)
		u.set.transposed(pk, panel, k[from*ldk:], ldk, keys, u.qk)
		*t = tileArgs{c: &part[0], a: &u.q[0], b: &pk[0], k: u.qk, aks: panel, bks: panel, rows: u.n, cols: panel}
		u.set.tile(t)
		for i := range u.n {
			for j, x := range part[i*panel : i*panel+keys] {
				c[(from+j)*panel+i] = x
			}
		}
	}
	bias.apply(s, u.set, c, 0, n, u.n)
	o, ml := u.sums(0), u.ml[:2*panel]
	clear(ml[panel:])
	u.set.softmaxTile(&c[0], &ml[0], &o[0], n, u.v+1)
	u.set.add(&o[u.v*panel], &o[u.v*panel], &ml[panel], panel)
	for col := 0; col < u.v; col += panel {
		cols := min(panel, u.v-col)
		*t = tileArgs{c: &part[0], a: &c[0], b: &v[col], k: n, aks: panel, bks: ldv, rows: u.n, cols: cols}
		u.set.tile(t)
		for i := range u.n {
			for j, x := range part[i*panel : i*panel+cols] {
				o[(col+j)*panel+i] += x
			}
		}
	}
}
