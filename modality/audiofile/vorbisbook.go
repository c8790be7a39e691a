package audiofile

import (
	"math"
	"math/bits"

	"github.com/mmserve/mmserve/modality/media"
)

// Limits on what a setup header may ask for. Real ones stay a hundred times below.
const (
	maxBookValues = 1 << 20 // entries × dimensions of all codebooks
	maxBookNodes  = 1 << 20
)

// vorbisBook is a codebook: a prefix code for numbers, and a vector for each where it has them.
type vorbisBook struct {
	dims    int
	tree    [][2]int32 // child: node when positive, ^entry when negative, 0 for none
	fast    [1 << fastBits]int32
	vectors []float32 // entries × dims, nil for none
}

// fastBits is how many bits of a code are looked up at once: fast holds entry<<8 | length, or 0.
const fastBits = 8

func (v *vorbisSetup) readBooks(r *lowBits) error {
	v.books = make([]vorbisBook, r.integer(8)+1)
	values := 0
	for i := range v.books {
		if r.read(24) != 0x564342 {
			return badVorbis("codebook %d without its mark", i)
		}
		if err := v.books[i].read(r, &values); err != nil {
			return err
		}
		if r.over {
			return nil
		}
	}
	return nil
}

func (b *vorbisBook) read(r *lowBits, values *int) error {
	b.dims = r.integer(16)
	entries := r.integer(24)
	if *values += entries * max(b.dims, 1); b.dims == 0 || *values > maxBookValues {
		return badVorbis("codebooks of %d values", *values)
	}
	lengths, err := readLengths(r, entries)
	if err != nil {
		return err
	}
	if err := b.grow(lengths); err != nil {
		return err
	}
	return b.readVectors(r, entries)
}

// readLengths reads the code length of every entry, 0 for those not used.
func readLengths(r *lowBits, entries int) ([]uint8, error) {
	lengths := make([]uint8, entries)
	if !r.flag() {
		sparse := r.flag()
		for i := range lengths {
			if r.over {
				return nil, media.Errorf(media.Truncated, "audio: vorbis: codebook ends early")
			}
			if !sparse || r.flag() {
				lengths[i] = uint8(r.read(5) + 1)
			}
		}
		return lengths, nil
	}
	length := r.integer(5) + 1
	for at := 0; at < entries; length++ {
		n := r.integer(uint(bits.Len(uint(entries - at))))
		if n > entries-at || length > 32 || r.over {
			return nil, badVorbis("ordered codebook")
		}
		for ; n > 0; n-- {
			lengths[at] = uint8(length)
			at++
		}
	}
	return lengths, nil
}

// grow builds the code: each entry in turn takes the first free word of its length.
func (b *vorbisBook) grow(lengths []uint8) error {
	b.tree = make([][2]int32, 1, 2*len(lengths)+1)
	var next [33]uint64 // first free word of each length
	used := 0
	for entry, l := range lengths {
		if l == 0 {
			continue
		}
		used++
		word := next[l]
		if word>>l != 0 {
			return badVorbis("codebook with too many words")
		}
		if err := b.plant(word, l, int32(entry)); err != nil {
			return err
		}
		for j := int(l); j > 0; j-- {
			if next[j]&1 == 1 {
				if j == 1 {
					next[1]++
				} else {
					next[j] = next[j-1] << 1
				}
				break
			}
			next[j]++
		}
		for j := int(l) + 1; j < 33 && next[j]>>1 == word; j++ {
			word = next[j]
			next[j] = next[j-1] << 1
		}
	}
	if b.tree[0][1] == 0 && used == 1 { // a book of one word of one bit gives it for either
		b.tree[0][1] = b.tree[0][0]
	}
	b.index()
	return nil
}

// plant puts an entry at its word, highest bit first.
func (b *vorbisBook) plant(word uint64, length uint8, entry int32) error {
	node := int32(0)
	for bit := int(length) - 1; ; bit-- {
		child := &b.tree[node][word>>uint(bit)&1]
		if bit == 0 {
			if *child != 0 {
				return badVorbis("codebook with two entries of one word")
			}
			*child = ^entry
			return nil
		}
		if *child < 0 || len(b.tree) >= maxBookNodes {
			return badVorbis("codebook is no tree")
		}
		if *child == 0 {
			*child = int32(len(b.tree))
			b.tree = append(b.tree, [2]int32{})
			child = &b.tree[node][word>>uint(bit)&1] // append may have moved the tree
		}
		node = *child
	}
}

// index fills the table of short codes.
func (b *vorbisBook) index() {
	for i := range b.fast {
		node := int32(0)
		for l := range fastBits {
			node = b.tree[node][i>>l&1]
			if node < 0 {
				b.fast[i] = ^node<<8 | int32(l+1)
			}
			if node <= 0 {
				break
			}
		}
	}
}

func (b *vorbisBook) readVectors(r *lowBits, entries int) error {
	kind := r.read(4)
	if kind == 0 {
		return nil
	}
	if kind > 2 {
		return badVorbis("codebook of lookup type %d", kind)
	}
	least, step := unpackFloat(r.read(32)), unpackFloat(r.read(32))
	valueBits, sum := uint(r.read(4)+1), r.flag()
	n := entries * b.dims
	if kind == 1 {
		n = gridSide(entries, b.dims)
	}
	grid := make([]float32, n)
	for i := range grid {
		grid[i] = float32(float64(r.read(valueBits))*step + least)
	}
	b.vectors = make([]float32, entries*b.dims)
	for e := range entries {
		last, divisor := float32(0), 1
		for d := range b.dims {
			at := e*b.dims + d
			if kind == 1 {
				at = e / divisor % n
				divisor *= n
			}
			b.vectors[e*b.dims+d] = grid[at] + last
			if sum {
				last = b.vectors[e*b.dims+d]
			}
			if divisor > entries {
				divisor = entries + 1 // further digits are zero
			}
		}
	}
	return nil
}

// gridSide is the largest n with n^dims ≤ entries, at least 1.
func gridSide(entries, dims int) int {
	n := int(math.Pow(float64(entries), 1/float64(dims)))
	fits := func(n int) bool {
		p := 1
		for range dims {
			if p *= n; p > entries {
				return false
			}
			if n == 1 {
				break
			}
		}
		return true
	}
	for fits(n + 1) {
		n++
	}
	for n > 1 && !fits(n) {
		n--
	}
	return max(n, 1)
}

func unpackFloat(x uint32) float64 {
	m := float64(x & 0x1fffff)
	if x>>31 == 1 {
		m = -m
	}
	return math.Ldexp(m, int(x>>21&0x3ff)-788)
}
