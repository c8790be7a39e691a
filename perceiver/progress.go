package perceiver

import "context"

// progressKey is the context key of a Progress.
type progressKey struct{}

// Progress hears how far a pass is: done of total units of the named stage ("encode", "latents",
// "decode", "generate"). It is called between layers and blocks, from the goroutine of the pass.
type Progress func(stage string, done, total int)

// WithProgress returns a context whose passes report to p.
func WithProgress(ctx context.Context, p Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

// step reports progress and returns the context's error: every pass calls it between layers.
func step(ctx context.Context, stage string, done, total int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p, ok := ctx.Value(progressKey{}).(Progress); ok {
		p(stage, done, total)
	}
	return nil
}
