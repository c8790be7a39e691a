package videofile

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// composite is what the heads of an input's parts say.
type composite struct {
	pictures []int // indices of parts, in natural order of their names
	sound    int   // index of the sound track, -1 for none
}

// sortParts tells pictures from the one sound track that may come with them.
func sortParts(h media.Header) (composite, error) {
	c := composite{sound: -1}
	for i, p := range h.Parts {
		switch {
		case imagefile.Sniff(p.Head) != "":
			c.pictures = append(c.pictures, i)
		case isSound(p) && c.sound < 0:
			c.sound = i
		default:
			return c, media.Errorf(media.Unsupported, "video: part %d %q is neither a picture nor the one sound track", i, clip(p.Name))
		}
	}
	if len(c.pictures) == 0 {
		return c, media.Errorf(media.Empty, "video: no frames")
	}
	slices.SortStableFunc(c.pictures, func(a, b int) int { return natural(h.Parts[a].Name, h.Parts[b].Name) })
	return c, media.Check("video: frames", h.Limits.WithDefaults().Frames, len(c.pictures))
}

// isSound goes by name, declared type and signature.
func isSound(p media.Header) bool {
	if isAudio(p.Name) || strings.HasPrefix(p.MediaType, "audio/") {
		return true
	}
	return bytes.HasPrefix(p.Head, []byte("fLaC")) || bytes.HasPrefix(p.Head, []byte("ID3")) ||
		len(p.Head) >= 12 && string(p.Head[:4]) == "RIFF" && string(p.Head[8:12]) == "WAVE"
}

// partsConfig is the config of a composite.
func partsConfig(ctx context.Context, h media.Header) (Config, error) {
	parts, err := sortParts(h)
	if err != nil {
		return Config{}, err
	}
	c := Config{MediaType: "multipart/mixed", Frames: len(parts.pictures)}
	if parts.sound >= 0 {
		p := h.Parts[parts.sound]
		p.Limits = h.Limits
		c.Sound = func() (media.Header, error) { return p, nil }
		if c.Audio = p.Name; c.Audio == "" {
			c.Audio = fmt.Sprintf("part %d", parts.sound)
		}
	}
	first := h.Parts[parts.pictures[0]]
	first.Limits = h.Limits
	ic, err := imagefile.ReadConfig(ctx, first, imagefile.Options{})
	if err != nil {
		return c, inFrame(0, err)
	}
	c.Width, c.Height, c.DecodedBytes = ic.Width, ic.Height, ic.DecodedBytes
	return c, nil
}

// openParts opens a composite. Parts that can be read once are kept.
func openParts(ctx context.Context, in media.Input) (*Video, error) {
	v := &Video{}
	kept := make([]media.Input, len(in.Parts))
	for i, p := range in.Parts {
		p.Limits = in.Limits
		part, done, err := media.Spool(ctx, p)
		if err != nil {
			v.Close()
			return nil, err
		}
		kept[i], v.done = part, append(v.done, done)
	}
	in.Parts = kept
	h, err := in.Header()
	if err == nil {
		v.Config, err = partsConfig(ctx, h)
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	parts, _ := sortParts(h)
	if parts.sound >= 0 {
		v.audio = &kept[parts.sound]
	}
	v.frames = &pictures{limits: in.Limits, load: func(_ context.Context, i int) (media.Input, error) {
		return kept[parts.pictures[i]], nil
	}}
	return v, nil
}

// clip shortens a foreign name for an error.
func clip(s string) string { return s[:min(len(s), 64)] }
