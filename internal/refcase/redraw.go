package refcase

import (
	"encoding/json"
	"fmt"
	"math"
)

// Draws is the stream of normal numbers that torch.manual_seed starts: MT19937 (Matsumoto and
// Nishimura, 1998) and the Box-Muller transform over blocks of sixteen, as torch's normal_ does
// for sixteen or more float32 values on a CPU. It redraws weights that a case was made with and
// does not store.
type Draws struct {
	state [624]uint32
	at    int
}

// NewDraws starts the stream of a seed.
func NewDraws(seed uint32) *Draws {
	d := &Draws{at: len(Draws{}.state)}
	d.state[0] = seed
	for i := 1; i < len(d.state); i++ {
		before := d.state[i-1]
		d.state[i] = 1812433253*(before^before>>30) + uint32(i)
	}
	return d
}

// Seed is the "seed" of the case's description.
func (c *Case) Seed() (uint32, error) {
	var head struct {
		Seed *uint32 `json:"seed"`
	}
	if err := json.Unmarshal(c.Meta, &head); err != nil || head.Seed == nil {
		return 0, fmt.Errorf("refcase: %s: the description states no seed", c.Name)
	}
	return *head.Seed, nil
}

// word is the next 32 bits.
func (d *Draws) word() uint32 {
	if d.at == len(d.state) {
		d.turn()
	}
	y := d.state[d.at]
	d.at++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

func (d *Draws) turn() {
	n := len(d.state)
	for i := range n {
		y := d.state[i]&0x80000000 | d.state[(i+1)%n]&0x7fffffff
		next := d.state[(i+397)%n] ^ y>>1
		if y&1 != 0 {
			next ^= 0x9908b0df
		}
		d.state[i] = next
	}
	d.at = 0
}

// Normal fills dst, sixteen values or more, with draws of that standard deviation.
func (d *Draws) Normal(dst []float32, deviation float32) {
	n := len(dst)
	if n < 16 {
		panic(fmt.Sprintf("refcase: %d draws, want 16 or more", n))
	}
	d.uniform(dst)
	for i := 0; i+16 <= n; i += 16 {
		boxMuller(dst[i:i+16], deviation)
	}
	if n%16 != 0 { // the last sixteen anew
		d.uniform(dst[n-16:])
		boxMuller(dst[n-16:], deviation)
	}
}

func (d *Draws) uniform(dst []float32) {
	for i := range dst {
		dst[i] = float32(d.word()&(1<<24-1)) / (1 << 24)
	}
}

// boxMuller turns sixteen uniform values into normal ones, value i with value i+8.
func boxMuller(x []float32, deviation float32) {
	for i := range 8 {
		radius := math.Sqrt(-2 * math.Log(float64(1-x[i])))
		sin, cos := math.Sincos(2 * math.Pi * float64(x[i+8]))
		x[i], x[i+8] = float32(radius*cos)*deviation, float32(radius*sin)*deviation
	}
}
