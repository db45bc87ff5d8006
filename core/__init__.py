"""What every other package stands on: settings, errors, types, ports, tables, access, jobs. Imports no sibling."""
