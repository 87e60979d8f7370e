complete --keep-order --exclusive --command cyyber --arguments "(CYYBER_COMPLETE=fish cyyber -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
