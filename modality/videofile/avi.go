package videofile

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
)

// aviWalk gathers what the chunks of an AVI say. Chunks are found by walking the file, not by
// its index, which many writers leave out or get wrong.
type aviWalk struct {
	f       *file
	streams int
	video   int // stream number of the video, -1 until found
	kind    string
	codec   string
	rate    float64
	width   int64
	height  int64
	sound   bool
	frames  []span
	chunks  int
	cut     bool // a list runs past the end of the file
}

// aviDepth is how deep lists nest: RIFF, LIST hdrl, LIST strl; RIFF, LIST movi, LIST rec.
const aviDepth = 4

func openAVI(f *file) (*Video, error) {
	w := &aviWalk{f: f, video: -1}
	if err := w.lists(0, f.size, 0); err != nil {
		return nil, err
	}
	switch {
	case w.video < 0:
		return nil, media.Errorf(media.Malformed, "video: avi: no video stream")
	case !strings.EqualFold(w.codec, "MJPG"):
		return nil, media.Errorf(media.Unsupported, "video: avi: codec %q is not read here (Motion-JPEG is): give its frames as pictures, or register an adapter for it", w.codec)
	}
	if len(w.frames) == 0 && w.cut {
		return nil, media.Errorf(media.Truncated, "video: avi: cut off before the first frame")
	}
	if len(w.frames) == 0 {
		return nil, media.Errorf(media.Empty, "video: avi: no frames")
	}
	v := &Video{Config: Config{MediaType: "video/x-msvideo", Frames: len(w.frames), Rate: w.rate}}
	if w.sound {
		v.Notes = append(v.Notes, "sound inside the AVI is not read: give it as a file of its own")
	}
	p := &pictures{limits: f.limits, load: func(ctx context.Context, i int) (media.Input, error) {
		s := w.frames[i]
		b := make([]byte, s.to-s.from)
		if _, err := media.NewReaderAt(ctx, f.at).ReadAt(b, s.from); err != nil && err != io.EOF {
			return media.Input{}, media.Wrap(err, media.Unreadable, "video: avi")
		}
		return media.Bytes(fmt.Sprintf("frame%d.jpg", i), withTables(b)), nil
	}}
	return v, v.first(f.ctx, p)
}

// lists walks the chunks in [from,to).
func (w *aviWalk) lists(from, to int64, depth int) error {
	for from+8 <= to {
		if w.chunks++; w.chunks > 4*w.f.limits.Frames+1000 {
			return media.Exceeds("video: avi: chunks", float64(4*w.f.limits.Frames+1000), float64(w.chunks))
		}
		var h [12]byte
		n, err := media.NewReaderAt(w.f.ctx, w.f.at).ReadAt(h[:], from)
		if n < 8 {
			return media.Wrap(err, media.Truncated, "video: avi: chunk")
		}
		id, size := string(h[:4]), int64(binary.LittleEndian.Uint32(h[4:]))
		body, end := from+8, from+8+size
		if end > to {
			// A list that runs past the end comes from a recording cut off; its chunks count.
			if id != "RIFF" && id != "LIST" {
				return media.Errorf(media.Truncated, "video: avi: chunk %q of %d bytes, %d left", id, size, to-body)
			}
			end, w.cut = to, true
		}
		switch {
		case id == "RIFF" || id == "LIST":
			if n < 12 || size < 4 || depth >= aviDepth {
				return media.Errorf(media.Malformed, "video: avi: list at %d", from)
			}
			if err := w.lists(body+4, end, depth+1); err != nil {
				return err
			}
		default:
			if err := w.chunk(id, body, end); err != nil {
				return err
			}
		}
		from = end + size&1
	}
	return nil
}

func (w *aviWalk) chunk(id string, body, end int64) error {
	switch id {
	case "strh":
		b, err := w.read(body, end, 32)
		if err != nil {
			return err
		}
		w.kind = string(b[:4])
		w.streams++
		if w.kind == "vids" && w.video < 0 {
			w.video = w.streams - 1
			scale, rate := binary.LittleEndian.Uint32(b[20:]), binary.LittleEndian.Uint32(b[24:])
			if scale > 0 {
				w.rate = float64(rate) / float64(scale)
			}
		}
		w.sound = w.sound || w.kind == "auds"
	case "strf":
		if w.kind != "vids" || w.video != w.streams-1 {
			return nil
		}
		b, err := w.read(body, end, 40)
		if err != nil {
			return err
		}
		w.codec = string(b[16:20])
		w.width, w.height = int64(int32(binary.LittleEndian.Uint32(b[4:]))), int64(int32(binary.LittleEndian.Uint32(b[8:])))
		return w.f.limits.Picture("video: avi", w.width, max(w.height, -w.height), 4)
	default:
		if w.video < 0 || id != fmt.Sprintf("%02ddc", w.video) && id != fmt.Sprintf("%02ddb", w.video) {
			return nil
		}
		s := span{body, end}
		if body == end { // a dropped frame shows the one before
			if len(w.frames) == 0 {
				return nil
			}
			s = w.frames[len(w.frames)-1]
		}
		w.frames = append(w.frames, s)
		if err := media.Check("video: avi: frame bytes", w.f.limits.Decoded, end-body); err != nil {
			return err
		}
		return media.Check("video: frames", w.f.limits.Frames, len(w.frames))
	}
	return nil
}

func (w *aviWalk) read(body, end int64, n int) ([]byte, error) {
	if end-body < int64(n) {
		return nil, media.Errorf(media.Malformed, "video: avi: stream header of %d bytes, want %d", end-body, n)
	}
	b := make([]byte, n)
	_, err := w.f.at.ReadAt(b, body)
	if err == io.EOF {
		err = nil
	}
	return b, media.Wrap(err, media.Unreadable, "video: avi")
}
