package audiofile

import (
	"math"
	"math/bits"
	"slices"

	"github.com/mmserve/mmserve/modality/media"
)

// Limits on what a setup header may ask for. Real ones stay a hundred times below.
const (
	maxBookValues = 1 << 20 // entries × dimensions of all codebooks
	maxBookNodes  = 1 << 20
)

// vorbisSetup is the setup header of a Vorbis stream.
type vorbisSetup struct {
	channels int
	books    []vorbisBook
	floors   []vorbisFloor
	residues []vorbisResidue
	mappings []vorbisMapping
	modes    []vorbisMode
}

// vorbisBook is a codebook: a prefix code for numbers, and a vector for each where it has them.
type vorbisBook struct {
	dims    int
	tree    [][2]int32 // child: node when positive, ^entry when negative, 0 for none
	fast    [1 << fastBits]int32
	vectors []float32 // entries × dims, nil for none
}

// fastBits is how many bits of a code are looked up at once: fast holds entry<<8 | length, or 0.
const fastBits = 8

type vorbisFloor struct {
	classes    []int // of each partition
	class      [16]floorClass
	multiplier int
	rangeBits  uint
	x          []int // places, in the order of the stream
	low, high  []int // nearest places before and behind, of those earlier in the stream
	sorted     []int // indices by place
}

type floorClass struct {
	dims, subclasses, master int
	books                    [8]int // -1: none
}

type vorbisResidue struct {
	kind             int
	begin, end, size int
	classes, book    int
	books            [64][8]int // -1: none
}

type vorbisMapping struct {
	coupling [][2]int // magnitude, angle
	mux      []int    // submap of each channel
	floor    [16]int
	residue  [16]int
	submaps  int
}

type vorbisMode struct {
	long    bool
	mapping int
}

func badVorbis(format string, args ...any) error {
	return media.Errorf(media.Malformed, "audio: vorbis: "+format, args...)
}

// readSetup reads the setup header behind its seven bytes of name.
func readSetup(b []byte, channels int) (*vorbisSetup, error) {
	r := &lowBits{b: b}
	v := &vorbisSetup{channels: channels}
	for _, part := range []func(*lowBits) error{v.readBooks, v.readTimes, v.readFloors, v.readResidues, v.readMappings, v.readModes} {
		if err := part(r); err != nil {
			return nil, err
		}
		if r.over {
			return nil, media.Errorf(media.Truncated, "audio: vorbis: setup ends early")
		}
	}
	return v, nil
}

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

func (v *vorbisSetup) readTimes(r *lowBits) error {
	for range r.read(6) + 1 {
		if r.read(16) != 0 {
			return badVorbis("unknown time transform")
		}
	}
	return nil
}

func (v *vorbisSetup) readFloors(r *lowBits) error {
	v.floors = make([]vorbisFloor, r.read(6)+1)
	for i := range v.floors {
		switch kind := r.read(16); kind {
		case 0:
			return media.Errorf(media.Unsupported, "audio: vorbis: floor of type 0 is not read here")
		case 1:
		default:
			return badVorbis("floor of type %d", kind)
		}
		if err := v.floors[i].read(r, len(v.books)); err != nil {
			return err
		}
	}
	return nil
}

func (f *vorbisFloor) read(r *lowBits, books int) error {
	f.classes = make([]int, r.read(5))
	most := -1
	for i := range f.classes {
		f.classes[i] = r.integer(4)
		most = max(most, f.classes[i])
	}
	for i := range most + 1 {
		c := &f.class[i]
		c.dims, c.subclasses = r.integer(3)+1, r.integer(2)
		if c.subclasses > 0 {
			if c.master = r.integer(8); c.master >= books {
				return badVorbis("floor with codebook %d of %d", c.master, books)
			}
		}
		for j := range 1 << c.subclasses {
			if c.books[j] = r.integer(8) - 1; c.books[j] >= books {
				return badVorbis("floor with codebook %d of %d", c.books[j], books)
			}
		}
	}
	f.multiplier, f.rangeBits = r.integer(2)+1, uint(r.read(4))
	f.x = []int{0, 1 << f.rangeBits}
	for _, c := range f.classes {
		for range f.class[c].dims {
			f.x = append(f.x, r.integer(f.rangeBits))
		}
	}
	return f.neighbours()
}

// neighbours finds what each place is interpolated from.
func (f *vorbisFloor) neighbours() error {
	n := len(f.x)
	f.low, f.high, f.sorted = make([]int, n), make([]int, n), make([]int, n)
	for i := range n {
		f.sorted[i] = i
		f.low[i], f.high[i] = 0, 1
		for j := range i {
			if f.x[j] < f.x[i] && f.x[j] > f.x[f.low[i]] {
				f.low[i] = j
			}
			if f.x[j] > f.x[i] && f.x[j] < f.x[f.high[i]] {
				f.high[i] = j
			}
		}
	}
	slices.SortFunc(f.sorted, func(a, b int) int { return f.x[a] - f.x[b] })
	for i := 1; i < n; i++ {
		if f.x[f.sorted[i]] == f.x[f.sorted[i-1]] {
			return badVorbis("floor with two values at one place")
		}
	}
	return nil
}

func (v *vorbisSetup) readResidues(r *lowBits) error {
	v.residues = make([]vorbisResidue, r.read(6)+1)
	for i := range v.residues {
		if err := v.residues[i].read(r, v.books); err != nil {
			return err
		}
	}
	return nil
}

func (s *vorbisResidue) read(r *lowBits, books []vorbisBook) error {
	s.kind = r.integer(16)
	s.begin, s.end, s.size = r.integer(24), r.integer(24), r.integer(24)+1
	s.classes, s.book = r.integer(6)+1, r.integer(8)
	if s.kind > 2 || s.book >= len(books) || s.end < s.begin {
		return badVorbis("residue of type %d", s.kind)
	}
	var cascade [64]int
	for i := range s.classes {
		cascade[i] = r.integer(3)
		if r.flag() {
			cascade[i] |= r.integer(5) << 3
		}
	}
	for i := range s.classes {
		for j := range 8 {
			s.books[i][j] = -1
			if cascade[i]>>j&1 == 0 {
				continue
			}
			b := r.integer(8)
			if b >= len(books) || books[b].vectors == nil {
				return badVorbis("residue with codebook %d", b)
			}
			s.books[i][j] = b
		}
	}
	return nil
}

func (v *vorbisSetup) readMappings(r *lowBits) error {
	v.mappings = make([]vorbisMapping, r.read(6)+1)
	for i := range v.mappings {
		if kind := r.read(16); kind != 0 {
			return badVorbis("mapping of type %d", kind)
		}
		if err := v.readMapping(r, &v.mappings[i]); err != nil {
			return err
		}
	}
	return nil
}

func (v *vorbisSetup) readMapping(r *lowBits, m *vorbisMapping) error {
	m.submaps = 1
	if r.flag() {
		m.submaps = r.integer(4) + 1
	}
	if r.flag() {
		width := uint(bits.Len(uint(v.channels - 1)))
		for range r.read(8) + 1 {
			a, b := r.integer(width), r.integer(width)
			if a == b || a >= v.channels || b >= v.channels {
				return badVorbis("coupling of channels %d and %d", a, b)
			}
			m.coupling = append(m.coupling, [2]int{a, b})
		}
	}
	if r.read(2) != 0 {
		return badVorbis("mapping with reserved bits")
	}
	m.mux = make([]int, v.channels)
	if m.submaps > 1 {
		for c := range m.mux {
			if m.mux[c] = r.integer(4); m.mux[c] >= m.submaps {
				return badVorbis("submap %d of %d", m.mux[c], m.submaps)
			}
		}
	}
	for s := range m.submaps {
		r.read(8)
		m.floor[s], m.residue[s] = r.integer(8), r.integer(8)
		if m.floor[s] >= len(v.floors) || m.residue[s] >= len(v.residues) {
			return badVorbis("submap with floor %d and residue %d", m.floor[s], m.residue[s])
		}
	}
	return nil
}

func (v *vorbisSetup) readModes(r *lowBits) error {
	v.modes = make([]vorbisMode, r.read(6)+1)
	for i := range v.modes {
		v.modes[i].long = r.flag()
		if r.read(32) != 0 {
			return badVorbis("mode with an unknown window or transform")
		}
		if v.modes[i].mapping = r.integer(8); v.modes[i].mapping >= len(v.mappings) {
			return badVorbis("mode with mapping %d", v.modes[i].mapping)
		}
	}
	if !r.flag() {
		return badVorbis("setup without its end mark")
	}
	return nil
}
