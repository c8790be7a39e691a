package imagefile

// Mean is the mean red, green and blue of the picture, 0..255, alpha ignored.
func (m *Image) Mean() []float64 {
	return m.mean(0, 0, m.Rect.Dx(), m.Rect.Dy())
}

// QuadrantMeans are the means of the quarters: top left, top right, bottom left, bottom right.
// The middle row or column of an odd side belongs to none; a picture one pixel wide or high has
// no quarters.
func (m *Image) QuadrantMeans() [][]float64 {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	if w < 2 || h < 2 {
		return nil
	}
	x, y := w/2, h/2
	return [][]float64{m.mean(0, 0, x, y), m.mean(w-x, 0, w, y), m.mean(0, h-y, x, h), m.mean(w-x, h-y, w, h)}
}

func (m *Image) mean(x0, y0, x1, y1 int) []float64 {
	var sum [3]int64
	for y := y0; y < y1; y++ {
		row := m.Pix[m.PixOffset(x0, y):][:4*(x1-x0)]
		for i := 0; i < len(row); i += 4 {
			sum[0] += int64(row[i])
			sum[1] += int64(row[i+1])
			sum[2] += int64(row[i+2])
		}
	}
	n := float64(max((x1-x0)*(y1-y0), 1))
	return []float64{float64(sum[0]) / n, float64(sum[1]) / n, float64(sum[2]) / n}
}
