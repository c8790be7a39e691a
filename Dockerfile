# The binary and the certificates of remote media, nothing else, as nobody:
#   docker build -t mmserve .
#   docker run -p 8080:8080 -v ./keys.yaml:/etc/mmserve/keys.yaml:ro mmserve
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /mmserve ./cmd/mmserve

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /mmserve /mmserve
USER 65534:65534
EXPOSE 8080
ENTRYPOINT ["/mmserve"]
CMD ["serve", "--addr", "0.0.0.0:8080", "--keys", "/etc/mmserve/keys.yaml"]
