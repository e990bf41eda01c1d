"""Pure: Profile × Filter × HostFeatures → Plan → Table. Nothing here touches the kernel."""
