package pointfile

import "github.com/mmserve/mmserve/modality/media"

func malformed(format string, args ...any) error {
	return media.Errorf(media.Malformed, "pointcloud: "+format, args...)
}

func truncated(format string, args ...any) error {
	return media.Errorf(media.Truncated, "pointcloud: "+format, args...)
}

func unsupported(format string, args ...any) error {
	return media.Errorf(media.Unsupported, "pointcloud: "+format, args...)
}

func empty(format string, args ...any) error {
	return media.Errorf(media.Empty, "pointcloud: "+format, args...)
}

func tooLarge(what string, limit, actual int64) error {
	return media.Exceeds("pointcloud: "+what, float64(limit), float64(actual))
}

// failed keeps errors of the reader apart from the end of the bytes.
func failed(err error, what string) error {
	return media.Wrap(err, media.Unreadable, "pointcloud: "+what)
}
