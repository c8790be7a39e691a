package modality

import (
	"context"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/videofile"
)

// withSound adds the plan of the sound track to that of the frames.
func (a *videoAdapter) withSound(ctx context.Context, cost Cost, c videofile.Config, l Limits) (Cost, error) {
	if c.Sound == nil {
		return cost, media.Errorf(media.Empty, "video: the options ask for sound, and there is no sound track")
	}
	h, err := c.Sound()
	if err != nil {
		return cost, err
	}
	sound, err := a.audio.Plan(ctx, h)
	if err != nil {
		return cost, err
	}
	cost.SampleRate, cost.Channels = sound.SampleRate, sound.Channels
	cost.Rows += sound.Rows
	cost.RowChannels = max(cost.RowChannels, sound.RowChannels)
	cost.DecodedBytes += sound.DecodedBytes
	cost.Decoding += sound.Decoding
	cost.Estimated = cost.Estimated || sound.Estimated
	return cost, media.Check("video: rows", l.Rows, int64(cost.Rows))
}

// fuse puts the rows of the sound track in front of those of the frames.
func (a *videoAdapter) fuse(ctx context.Context, frames *Array, v *videofile.Video, l Limits) (*Array, error) {
	cost, err := a.withSound(ctx, frames.Cost, v.Config, l.WithDefaults())
	if err != nil {
		return nil, err
	}
	in := *v.Audio()
	in.Limits = l
	sound, err := a.audio.Adapt(ctx, in)
	if err != nil {
		return nil, err
	}
	array, err := Fuse(0, Member{Name: "audio", Array: sound}, Member{Name: "video", Array: frames})
	if err != nil {
		sound.Close()
		return nil, err
	}
	cost.Rows, cost.RowChannels = array.Dims()
	cost.Notes = array.Notes
	array.Cost = cost
	return array, nil
}
