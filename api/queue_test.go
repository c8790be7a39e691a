package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The queue holds what the measured rate drains in Wait, whatever was assumed at first.
func TestQueueHoldsWhatItDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, pass = 1e9, 100 * time.Millisecond // 10 a second by one slot
		q := &Queue{Slots: 1, Wait: time.Second}
		turn := func() error {
			leave, err := q.Enter(t.Context(), cost)
			if err != nil {
				return err
			}
			time.Sleep(pass)
			leave()
			return nil
		}
		for range 50 {
			if err := turn(); err != nil {
				t.Fatal(err)
			}
		}
		if got := q.Load().Rate; got < 9.9e9 || got > 10.1e9 {
			t.Errorf("rate %g, want 1e10", got)
		}
		var admitted, refused int
		done := make(chan error)
		begin := time.Now()
		for range 100 {
			go func() { done <- turn() }()
		}
		for range 100 {
			var full *Saturated
			switch err := <-done; {
			case err == nil:
				admitted++
			case errors.As(err, &full):
				refused++
				if full.RetryAfter < time.Second {
					t.Errorf("retry after %s", full.RetryAfter)
				}
			default:
				t.Error(err)
			}
		}
		if admitted < 9 || admitted > 11 || admitted+refused != 100 {
			t.Errorf("%d admitted, %d refused of 100; one second holds 10", admitted, refused)
		}
		if took := time.Since(begin); took > 1200*time.Millisecond {
			t.Errorf("the last of the admitted waited %s", took)
		}
		if l := q.Load(); l.Admitted != 0 || l.Running != 0 || l.Waiting != 0 {
			t.Errorf("left behind: %+v", l)
		}
	})
}

// Who leaves gives the place back, and turns are first come, first served.
func TestQueueOrderAndDeparture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{Slots: 1, Capacity: 1e12}
		leave, err := q.Enter(t.Context(), 1e9)
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		order := make(chan int, 3)
		for i := range 3 {
			ctx := t.Context()
			if i == 1 {
				ctx = gone
			}
			go func() {
				leave, err := q.Enter(ctx, 1e9)
				if err == nil {
					order <- i
					leave()
				}
			}()
			synctest.Wait() // each stands in line before the next comes
		}
		cancel()
		synctest.Wait()
		if l := q.Load(); l.Waiting != 2 || l.Admitted != 3e9 {
			t.Errorf("after a departure: %+v", l)
		}
		leave()
		leave() // twice does no harm
		synctest.Wait()
		if a, b := <-order, <-order; a != 0 || b != 2 {
			t.Errorf("order %d, %d", a, b)
		}
		if l := q.Load(); l.Admitted != 0 || l.Running != 0 {
			t.Errorf("left behind: %+v", l)
		}
	})
}

// Work larger than the whole capacity has its turn when nothing else runs; further work of an
// admitted request is never refused.
func TestQueueLargeAndFurtherWork(t *testing.T) {
	q := &Queue{Slots: 1, Capacity: 1e9}
	leave, err := q.Enter(t.Context(), 1e12)
	if err != nil {
		t.Fatal(err)
	}
	var full *Saturated
	if _, err := q.Enter(t.Context(), 1); !errors.As(err, &full) {
		t.Errorf("%v", err)
	}
	if err := q.Check(); !errors.As(err, &full) {
		t.Errorf("check: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Continue(over, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	leave()
	if err := q.Check(); err != nil {
		t.Error(err)
	}
}
