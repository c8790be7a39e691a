package audiofile

import "github.com/mmserve/mmserve/modality/media"

func isOgg(head []byte) bool { return len(head) >= 4 && string(head[:4]) == "OggS" }

func openOgg(s *source, info *Info) (decoder, error) {
	return nil, media.Errorf(media.Unsupported, "audio: ogg is not read here")
}
