package logfile

import "os"

// canRedirect is false: Windows renames no file that is open.
const canRedirect = false

func redirect(*os.File, *os.File) error { return os.ErrInvalid }
