package videofile

import (
	"context"
	"slices"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// partsConfig reads the config of a composite from the heads of its parts.
func partsConfig(ctx context.Context, h media.Header) (Config, error) {
	var pictures []media.Header
	c := Config{MediaType: "multipart/mixed"}
	for _, p := range h.Parts {
		switch {
		case imagefile.Sniff(p.Head) != "":
			pictures = append(pictures, p)
		case isAudio(p.Name) && c.Audio == "":
			p.Limits = h.Limits
			c.Audio, c.Sound = p.Name, func() (media.Header, error) { return p, nil }
		default:
			return c, media.Errorf(media.Unsupported, "video: part %q is neither a picture nor sound", clip(p.Name))
		}
	}
	if len(pictures) == 0 {
		return c, media.Errorf(media.Empty, "video: no frames")
	}
	if err := media.Check("video: frames", h.Limits.WithDefaults().Frames, len(pictures)); err != nil {
		return c, err
	}
	first := slices.MinFunc(pictures, func(a, b media.Header) int { return natural(a.Name, b.Name) })
	first.Limits = h.Limits
	ic, err := imagefile.ReadConfig(ctx, first, imagefile.Options{})
	if err != nil {
		return c, inFrame(0, err)
	}
	c.Frames, c.Width, c.Height, c.DecodedBytes = len(pictures), ic.Width, ic.Height, ic.DecodedBytes
	return c, nil
}

// openParts opens a composite: its pictures in natural order of their names (parts without
// names stay as they come), and at most one sound track.
func openParts(ctx context.Context, in media.Input) (*Video, error) {
	v := &Video{}
	for i := range in.Parts {
		part, done, err := media.Spool(ctx, withLimits(in.Parts[i], in.Limits))
		if err != nil {
			v.Close()
			return nil, err
		}
		in.Parts[i] = part
		v.done = append(v.done, done)
	}
	h, err := in.Header()
	if err == nil {
		v.Config, err = partsConfig(ctx, h)
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	var frames []media.Input
	for i, p := range in.Parts {
		switch {
		case imagefile.Sniff(h.Parts[i].Head) != "":
			frames = append(frames, p)
		case p.Name == v.Config.Audio:
			v.audio = &in.Parts[i]
		}
	}
	slices.SortStableFunc(frames, func(a, b media.Input) int { return natural(a.Name, b.Name) })
	v.frames = &pictures{n: len(frames), limits: in.Limits,
		load: func(_ context.Context, i int) (media.Input, error) { return frames[i], nil }}
	return v, nil
}

func withLimits(in media.Input, l media.Limits) media.Input {
	in.Limits = l
	return in
}

// clip shortens a foreign name for an error.
func clip(s string) string { return s[:min(len(s), 64)] }
