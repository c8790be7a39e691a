package audiofile

import (
	"math/bits"
	"slices"

	"github.com/mmserve/mmserve/modality/media"
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
