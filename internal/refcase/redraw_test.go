package refcase_test

import (
	"math"
	"testing"

	"github.com/mmserve/mmserve/internal/refcase"
)

// The values are those of torch.manual_seed(1331); randn(16); randn(37).
func TestDrawsAreTorchs(t *testing.T) {
	d := refcase.NewDraws(1331)
	a, b := make([]float32, 16), make([]float32, 37)
	d.Normal(a, 1)
	d.Normal(b, 2)
	for _, c := range []struct {
		got  float32
		want float64
	}{
		{a[0], -0.02213500626385212}, {a[1], 0.9911031723022461}, {a[2], 1.9317222833633423}, {a[15], -0.032094456255435944},
		{b[0], 2 * -1.5160160064697266}, {b[1], 2 * -0.6374221444129944}, {b[20], 2 * -0.4518936574459076}, {b[36], 2 * -1.3923866748809814},
	} {
		if math.Abs(float64(c.got)-c.want) > 2e-6 {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
}
