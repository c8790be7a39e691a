module github.com/mmserve/mmserve/internal/kernel/_gen

go 1.26.0
