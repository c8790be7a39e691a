package kernel

import "unsafe"

func gridScoresPortable(t *gridTileArgs) {
	c, sw := unsafe.Slice(t.c, t.n*panel), unsafe.Slice(t.sw, t.n*panel)
	sh, top := unsafe.Slice(t.sh, panel), unsafe.Slice(t.top, panel)
	for k, inv := range unsafe.Slice(t.inv, t.n) {
		row, w := c[k*panel:(k+1)*panel], sw[k*panel:(k+1)*panel]
		for i := range row {
			row[i] = (row[i] + (w[i] + sh[i])) * inv
			top[i] = max(top[i], row[i])
		}
	}
}

func gridWeightsPortable(t *gridTileArgs) {
	c, aw := unsafe.Slice(t.c, t.n*panel), unsafe.Slice(t.aw, t.n*panel)
	ah, ml := unsafe.Slice(t.ah, panel), unsafe.Slice(t.ml, 2*panel)
	for k, inv := range unsafe.Slice(t.inv, t.n) {
		row, w := c[k*panel:(k+1)*panel], aw[k*panel:(k+1)*panel]
		for i := range row {
			p := expPortable(row[i] - ml[i])
			ml[panel+i] += p
			row[i] = p * inv
			ah[i] += row[i]
			w[i] += row[i]
		}
	}
}

func gridBiasPortable(t *gridQueryTile) {
	c, sw := unsafe.Slice(t.c, t.n*panel), unsafe.Slice(t.sw, t.n*panel)
	bias, inv := unsafe.Slice(t.bias, t.n), unsafe.Slice(t.inv, panel)
	for k, sh := range unsafe.Slice(t.sh, t.n) {
		row, w := c[k*panel:(k+1)*panel], sw[k*panel:(k+1)*panel]
		for i := range row {
			row[i] = (row[i]+(w[i]+sh))*inv[i] + bias[k]
		}
	}
}
