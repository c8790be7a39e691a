# Plain commands, one a target; nothing hidden. CGO is never needed.
export CGO_ENABLED = 0

.PHONY: build test check purego bench bench-go precision precision-default fuzz verify verify-full generate torch-check soak overload reproducible

build: ## the static binary
	go build -trimpath -o bin/mmserve ./cmd/mmserve

test: ## what the README says
	go test ./...

check: ## what a change should pass before it is sent
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	GOARCH=arm64 go vet ./...
	go test ./...

purego: ## the portable loops alone
	go test -tags purego ./internal/kernel ./internal/nn ./perceiver ./resampler ./vision ./flamingo

bench: build ## every target of docs/performance.md that needs no other runtime, as a table; samples for benchstat in bench.txt
	bin/mmserve bench --targets all --samples bench.txt

bench-go: ## the Go benchmarks behind it, for benchstat
	go test -run '^$$' -bench . -benchtime 1s -count 6 ./internal/kernel ./perceiver ./resampler ./vision ./flamingo

precision: build ## errors of bf16 and int8 at full size, for docs/performance.md and /v1/models (minutes)
	bin/mmserve verify --against f32 --json testdata/reference/fullsize/*-perceiver* > pipeline/precision.jsonl

fuzz: ## each fuzz target for FUZZTIME (default one minute)
	./.ci/fuzz $(or $(FUZZTIME),1m)

verify: build ## every reference case in testdata but the full-size ones
	find testdata/reference -path '*/fullsize' -prune -o \( -name case.json -o -name expected.json \) -printf '%h\n' | sort -u | xargs bin/mmserve verify

verify-full: build ## the published models at full size, weights made from their names (minutes)
	bin/mmserve verify testdata/reference/fullsize/*-perceiver* 

precision-default: build ## where bf16 and int8 choose as f32 does, default model, labelled data in DATA
	bin/mmserve eval --against f32 --json $(DATA) > pipeline/precision-default.jsonl

generate: ## the assembly, from its generator
	cd internal/kernel/_gen && go run . ..

torch-check: build ## our .pt files read by a real torch (PYTHON: one that has torch)
	$(or $(PYTHON),python3) tools/torch_check.py bin/mmserve

reproducible: ## two builds with nothing in common but the source are one binary, static; root also runs it in an empty file system
	GOCACHE=$$(mktemp -d) go build -trimpath -buildvcs=false -o bin/mmserve.1 ./cmd/mmserve
	GOCACHE=$$(mktemp -d) go build -trimpath -buildvcs=false -o bin/mmserve.2 ./cmd/mmserve
	cmp bin/mmserve.1 bin/mmserve.2
	! ldd bin/mmserve.1 >/dev/null 2>&1
	if [ "$$(id -u)" = 0 ]; then root=$$(mktemp -d) && chmod 755 $$root && cp bin/mmserve.1 $$root/mmserve && \
		chroot --userspec=65534:65534 $$root /mmserve predict --text "alone, as nobody" && rm -r $$root; fi
	rm bin/mmserve.1 bin/mmserve.2

soak: build ## SOAK (default an hour) at capacity, 1 % hostile clients; fails on a wrong answer, an unexpected status or growth
	bin/mmserve load --soak $(or $(SOAK),1h) --hostile 0.01 --hostile-files testdata/media $(SOAK_FLAGS) \
		testdata/media/text/udhr_eng.txt testdata/media/image/go-video-001.q50.422.progressive.jpeg testdata/samples/emoji-1f475.png \
		testdata/media/audio/fsdd-7_george_0.wav testdata/samples/esc10-dog_bark.mp3 \
		testdata/samples/shape-seat.ply testdata/media/pointcloud/pyntcloud-diamond.ply

overload: build ## goodput, latency and shed share at 0.5, 1, 2 and 5 times capacity
	bin/mmserve load --seconds 10 testdata/media/text/udhr_eng.txt testdata/media/image/go-video-001.rgb.jpeg testdata/media/audio/fsdd-7_george_0.wav
