package colony

import "time"

// Hold has invitations hold for another time.
func (m *Member) Hold(d time.Duration) { m.holds = d }
