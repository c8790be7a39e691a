package modality

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

const (
	heldAudio     = 4 << 20 // values: recordings up to this size are kept rather than computed again
	audioPipeline = 4 << 20 // bytes: what reading, resampling and transforming hold
	waveBlock     = 4096    // samples fetched at a time
)

func (a *audioAdapter) hold() int64 {
	if a.keep != 0 {
		return a.keep
	}
	return heldAudio
}

// Adapt implements Adapter. A short recording is decoded at once and kept; a longer one is decoded
// while its rows are read, and again from the start when an earlier row is asked for. A
// forward-only input is read that way without being kept if its header tells its length.
func (a *audioAdapter) Adapt(ctx context.Context, in Input) (*Array, error) {
	in, done, err := a.replayable(ctx, in)
	if err != nil {
		return nil, err
	}
	array, err := a.adapt(ctx, in)
	if err != nil {
		done()
		return nil, err
	}
	array.OnClose(func() error { done(); return nil })
	return array, nil
}

// replayable keeps the bytes of a stream whose rows cannot be made in one go: their number is not
// known, or they depend on what comes later.
func (a *audioAdapter) replayable(ctx context.Context, in Input) (out Input, done func(), err error) {
	done = func() {}
	if in.Stream == nil {
		return in, done, nil
	}
	h, err := in.Header()
	if err != nil {
		return in, nil, err
	}
	if len(h.Head) < media.HeadBytes { // all there is
		out = in
		out.Stream, out.At, out.Size = nil, bytes.NewReader(bytes.Clone(h.Head)), int64(len(h.Head))
		return out, done, nil
	}
	c, err := a.Plan(ctx, h)
	if err == nil && !c.Estimated && (a.mel.Range == 0 || a.kept(int64(c.Rows))) {
		return in, done, nil
	}
	return media.Spool(ctx, in)
}

func (a *audioAdapter) kept(rows int64) bool { return rows*int64(a.content()) <= a.hold() }

func (a *audioAdapter) adapt(ctx context.Context, in Input) (*Array, error) {
	s := &audioSource{a: a, ctx: ctx, in: in, loudest: float32(math.Inf(-1))}
	if err := s.open(); err != nil {
		return nil, err
	}
	info := s.file.Info
	c, err := a.cost(info, in.Limits.WithDefaults())
	if err != nil {
		return nil, err
	}
	content, err := s.content(c)
	if err != nil {
		return nil, err
	}
	c.Notes = append(c.Notes, s.file.Notes[len(info.Notes):]...) // what was met while decoding
	if s.file.Bad > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d samples were not finite or out of range", s.file.Bad))
	}
	c.Rows, _ = content.Dims()
	if c.Rows == 0 {
		return nil, media.Errorf(media.Empty, "audio: no rows")
	}
	c.Estimated, c.DecodedBytes = false, a.memory(int64(c.Rows))
	array := &Array{Content: content, Notes: c.Notes, Cost: c}
	if _, streamed := content.(*audioStream); streamed {
		array.Forward = in.Stream != nil
	}
	if a.positions() > 0 {
		array.Position = NewGrid(a.fourier, c.Rows)
	}
	return array, nil
}

// audioSource makes the rows of an input, one after the other.
type audioSource struct {
	a       *audioAdapter
	ctx     context.Context
	in      Input
	file    *audiofile.Reader
	signal  audiofile.Signal
	mel     *audiofile.LogMel
	loudest float32 // highest value of the recording, for the clamp

	block []float32 // waveform: samples fetched, of which block[at:] is left
	at    int
}

// open starts from the beginning.
func (s *audioSource) open() (err error) {
	if s.file, err = audiofile.Open(s.ctx, s.in); err != nil {
		return err
	}
	if c := s.a.o.Channel; c >= s.file.Channels {
		return BadOption("audio", "channel %d of a file with %d", c, s.file.Channels)
	} else if c >= 0 {
		s.signal = audiofile.NewPicker(s.file, c)
	} else {
		s.signal = audiofile.NewMixer(s.file)
	}
	if rate := s.a.rate(s.file.Info); rate != s.file.Rate {
		if s.signal, err = audiofile.NewResampler(s.signal, s.file.Rate, rate); err != nil {
			return err
		}
	}
	if n := s.a.o.Length; n > 0 {
		s.signal = &audiofile.Exactly{Signal: s.signal, Left: n}
	}
	s.block, s.at = s.block[:0], 0
	if s.a.o.Features == "logmel" {
		s.mel, err = audiofile.NewLogMel(s.signal, s.a.mel)
	}
	return err
}

// row makes the next row, without the clamp; io.EOF when there are no more.
func (s *audioSource) row(dst []float32) error {
	if s.mel != nil {
		return s.mel.Next(dst)
	}
	for n := 0; n < len(dst); {
		if s.at == len(s.block) {
			if err := s.fetch(); err == io.EOF && n > 0 {
				clear(dst[n:])
				return nil
			} else if err != nil {
				return err
			}
		}
		m := copy(dst[n:], s.block[s.at:])
		s.at += m
		n += m
	}
	return nil
}

func (s *audioSource) fetch() error {
	if cap(s.block) == 0 {
		s.block = make([]float32, waveBlock)
	}
	n, err := audiofile.ReadFull(s.signal, s.block[:waveBlock])
	s.block, s.at = s.block[:n], 0
	return err
}

// content keeps the rows of a short recording and prepares those of a long one to be read.
func (s *audioSource) content(c Cost) (Content, error) {
	if s.a.kept(int64(c.Rows)) {
		return s.held(c.Rows)
	}
	rows := c.Rows
	if c.Estimated || s.a.mel.Range > 0 { // only all of it tells
		var err error
		if rows, err = s.pass(nil); err != nil {
			return nil, err
		}
		if err := s.open(); err != nil {
			return nil, err
		}
	}
	return &audioStream{s: s, rows: rows}, nil
}

// held keeps all rows. Their number is what was really found.
func (s *audioSource) held(expect int) (Content, error) {
	v := Values{C: s.a.content(), Data: make([]float32, 0, expect*s.a.content())}
	rows, err := s.pass(func(row []float32) error {
		if len(v.Data) > int(2*s.a.hold()) {
			return media.Errorf(media.Malformed, "audio: far longer than its header says")
		}
		v.Data = append(v.Data, row...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for r := range rows {
		s.finish(v.Data[r*v.C:][:v.C])
	}
	return v, nil
}

// pass makes all rows, gives them to use (nil: to nobody) and finds the loudest value.
func (s *audioSource) pass(use func(row []float32) error) (rows int, err error) {
	row := make([]float32, s.a.content())
	for {
		if err := s.row(row); err == io.EOF {
			return rows, nil
		} else if err != nil {
			return rows, err
		}
		for _, v := range row {
			s.loudest = max(s.loudest, v)
		}
		if use != nil {
			if err := use(row); err != nil {
				return rows, err
			}
		}
		rows++
	}
}

// finish clamps and scales a row of log-mel values.
func (s *audioSource) finish(row []float32) {
	if s.mel != nil {
		s.a.mel.Finish(row, s.loudest)
	}
}

// audioStream is content that is decoded while it is read.
type audioStream struct {
	s    *audioSource
	rows int
	next int // the row that comes next
	skip []float32
}

// Dims implements Content.
func (t *audioStream) Dims() (m, c int) { return t.rows, t.s.a.content() }

// Read implements Content.
func (t *audioStream) Read(dst []float32, ld, from, to int) error {
	if from == to {
		return nil
	}
	if from < t.next {
		if t.s.in.Stream != nil {
			return media.Errorf(media.NotReplayable, "audio: row %d asked for, the stream stands at row %d", from, t.next)
		}
		if err := t.s.open(); err != nil {
			return err
		}
		t.next = 0
	}
	_, c := t.Dims()
	if from > t.next && t.skip == nil {
		t.skip = make([]float32, c)
	}
	for ; t.next < from; t.next++ {
		if err := t.row(t.skip); err != nil {
			return err
		}
	}
	for ; t.next < to; t.next++ {
		row := dst[(t.next-from)*ld:][:c]
		if err := t.row(row); err != nil {
			return err
		}
		t.s.finish(row)
	}
	return nil
}

func (t *audioStream) row(dst []float32) error {
	err := t.s.row(dst)
	if err == io.EOF {
		return media.Errorf(media.Truncated, "audio: ends after %d of %d rows", t.next, t.rows)
	}
	return err
}

// Describe implements Describer: it decodes all samples at the file's own rate, in little memory.
func (a *audioAdapter) Describe(ctx context.Context, in Input) (Cost, Facts, error) {
	r, err := audiofile.Open(ctx, in)
	if err != nil {
		return Cost{}, Facts{}, err
	}
	mono, sum := audiofile.NewMixer(r), 0.0
	buf := make([]float32, waveBlock)
	for {
		n, err := mono.Read(buf)
		for _, v := range buf[:n] {
			sum += float64(v) * float64(v)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return Cost{}, Facts{}, err
		}
	}
	info := r.Info
	info.Frames, info.Exact = r.Done, true
	c, err := a.cost(info, in.Limits.WithDefaults())
	if r.Bad > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d samples were not finite or out of range", r.Bad))
	}
	rms := math.Sqrt(sum / float64(r.Done))
	return c, Facts{RMS: &rms}, err
}
