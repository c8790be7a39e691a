package pipeline

import (
	"context"

	"github.com/mmserve/mmserve/perceiver"
)

// Progress is told how far a long piece of work has come: done of total units of a kind.
type Progress = perceiver.Progress

type progressKey struct{}

// WithProgress returns a context whose work reports to p. Calls come from the goroutine that
// does the work and must return quickly.
func WithProgress(ctx context.Context, p Progress) context.Context {
	return perceiver.WithProgress(context.WithValue(ctx, progressKey{}, p), p)
}

// Report tells the context's Progress that a piece of work has come to done of total units. The
// networks here do so at every layer; a Model of one's own that runs for seconds should, or a server
// takes it for stuck.
func Report(ctx context.Context, unit string, done, total int) {
	if p, ok := ctx.Value(progressKey{}).(Progress); ok {
		p(unit, done, total)
	}
}
