package pipeline

import "context"

// Progress is told how far a long piece of work has come: done of total units of a kind.
type Progress func(unit string, done, total int)

type progressKey struct{}

// WithProgress returns a context whose work reports to p. Calls come from the goroutine that
// does the work and must return quickly.
func WithProgress(ctx context.Context, p Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

func report(ctx context.Context, unit string, done, total int) {
	if p, ok := ctx.Value(progressKey{}).(Progress); ok {
		p(unit, done, total)
	}
}
